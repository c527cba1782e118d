package kit

import "flag"

var floods = flag.Bool("floods", false, "play floods in their full size, and not a tenth of it")

// Flood is how many of something a flood has: n, or a tenth of it without -floods.
func Flood(n int) int {
	if *floods {
		return n
	}
	return n / 10
}
