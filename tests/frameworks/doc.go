// Package frameworks holds tests of the library inside web frameworks.
package frameworks
