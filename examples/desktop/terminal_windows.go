package main

import "golang.org/x/sys/windows"

// startColor makes a console understand colours, which older ones do only when told to,
// or not at all.
func startColor(fd int) bool {
	console := windows.Handle(fd)
	var mode uint32
	if err := windows.GetConsoleMode(console, &mode); err != nil {
		return false
	}
	return windows.SetConsoleMode(console, mode|windows.ENABLE_VIRTUAL_TERMINAL_PROCESSING) == nil
}
