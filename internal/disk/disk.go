// Package disk lists, for each system, the errors by which a file system says that it can't
// do something that others can. The lists may be incomplete: an error that is in none can
// still mean that.
package disk
