// Package rpc holds tests of the RPC modules over real connections.
package rpc
