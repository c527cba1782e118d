// The webhook handler against Standard Webhooks' library for Node. A module of its own, since
// its test fetches that library; it is never released.
module github.com/polargate/polargate/tests/standardwebhooks

go 1.26.0

replace github.com/polargate/polargate => ../..

require github.com/polargate/polargate v0.0.0

require (
	github.com/denisbrodbeck/machineid v1.0.1 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
