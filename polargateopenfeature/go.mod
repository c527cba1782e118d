module github.com/polargate/polargate/polargateopenfeature

go 1.26.0

require (
	github.com/open-feature/go-sdk v1.20.0
	github.com/polargate/polargate v0.0.0
	github.com/stretchr/testify v1.12.1
)

require (
	github.com/denisbrodbeck/machineid v1.0.1 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	go.uber.org/mock v0.6.0 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/time v0.16.0 // indirect
)
