// Package spoken rounds durations to what a person would say. It knows no language: the caller
// has the words.
package spoken

import "time"

// Unit is what a duration is counted in.
type Unit int

const (
	Moment  Unit = iota // a few seconds, which nobody counts
	Seconds             // in fives
	Minutes
	Hours
	Days
)

// Round is a duration in a unit, of which there is at least one. It is rounded up, so that a
// person who waits that long rarely comes too early.
func Round(d time.Duration) (n int, unit Unit) {
	const day = 24 * time.Hour
	switch {
	case d <= 15*time.Second:
		return 1, Moment
	case d <= 50*time.Second:
		return int((d+5*time.Second-1)/(5*time.Second)) * 5, Seconds
	case d <= 70*time.Second:
		return 1, Minutes
	case d <= 59*time.Minute:
		return int((d + 50*time.Second) / time.Minute), Minutes
	case d <= 70*time.Minute:
		return 1, Hours
	case d <= 36*time.Hour:
		return int((d + 50*time.Minute) / time.Hour), Hours
	}
	return int((d + 20*time.Hour) / day), Days
}
