// The RPC modules over real connections, with generated code and a client of each protocol. A
// module of its own, so that nobody who uses one of them downloads the others; it is never
// released.
module github.com/polargate/polargate/tests/rpc

go 1.26.0

replace (
	github.com/polargate/polargate => ../..
	github.com/polargate/polargate/polargateconnect => ../../polargateconnect
	github.com/polargate/polargate/polargateconnectv2 => ../../polargateconnectv2
	github.com/polargate/polargate/polargategrpc => ../../polargategrpc
)

require (
	connectrpc.com/connect v1.21.1
	connectrpc.com/connect/v2 v2.0.2
	github.com/polargate/polargate v0.0.0
	github.com/polargate/polargate/polargateconnect v0.0.0
	github.com/polargate/polargate/polargateconnectv2 v0.0.0
	github.com/polargate/polargate/polargategrpc v0.0.0
	github.com/stretchr/testify v1.12.1
	google.golang.org/grpc v1.85.0
	google.golang.org/protobuf v1.36.12
)

require (
	github.com/denisbrodbeck/machineid v1.0.1 // indirect
	github.com/gofrs/flock v0.13.1 // indirect
	github.com/hashicorp/golang-lru/v2 v2.0.7 // indirect
	go.yaml.in/yaml/v3 v3.0.5 // indirect
	golang.org/x/net v0.60.0 // indirect
	golang.org/x/sync v0.24.0 // indirect
	golang.org/x/sys v0.49.0 // indirect
	golang.org/x/text v0.42.0 // indirect
	golang.org/x/time v0.16.0 // indirect
	google.golang.org/genproto/googleapis/rpc v0.0.0-20260817212433-ac3dfec99bb1 // indirect
)
