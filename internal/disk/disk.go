// Package disk lists, for each system, the errors by which a file system refuses what
// not every file system can do. It promises only what is known of them: an error that
// is in no list can still be such a refusal.
package disk
