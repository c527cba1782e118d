// Package frameworks holds tests of the library behind servers that are not net/http.
package frameworks
