package polargategrpc_test

import (
	"testing"

	"github.com/polargate/polargate/polargategrpc"
	"github.com/polargate/polargate/rpcgate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/durationpb"

	spb "google.golang.org/genproto/googleapis/rpc/status"
)

// FuzzFromError reads errors of servers that anybody may have written.
func FuzzFromError(f *testing.F) {
	for _, info := range []*errdetails.ErrorInfo{
		{Reason: rpcgate.NotEntitled, Domain: rpcgate.Domain, Metadata: map[string]string{"required": "feature pro", "upgrade_url": "javascript:alert(1)"}},
		{Reason: "\u202e", Domain: "another"},
	} {
		s, err := status.New(codes.PermissionDenied, "refused").WithDetails(info, &errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: -1 << 40, Nanos: 1<<31 - 1}})
		if err != nil {
			f.Fatal(err)
		}
		data, err := proto.Marshal(s.Proto())
		if err != nil {
			f.Fatal(err)
		}
		f.Add(data)
		f.Add(data[:len(data)-3])
	}
	f.Fuzz(func(t *testing.T, data []byte) {
		var s spb.Status
		if proto.Unmarshal(data, &s) != nil {
			return
		}
		refused, ok := polargategrpc.FromError(status.ErrorProto(&s))
		switch {
		case !ok && refused != rpcgate.Refused{}:
			t.Fatalf("what is no refusal says something: %+v", refused)
		case ok && s.GetCode() == 0:
			t.Fatal("a call that went well is refused")
		case refused.RetryAfter < 0:
			t.Fatalf("a wait of %s", refused.RetryAfter)
		}
	})
}
