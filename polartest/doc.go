// Package polartest is a Polar (polar.sh) to test against: license keys, activations, access tokens,
// rate limits, faults and a clock, in process.
package polartest
