package polargateconnectv2_test

import (
	"testing"

	"connectrpc.com/connect/v2"
	"connectrpc.com/connect/v2/connectproto"
	"github.com/polargate/polargate/polargateconnectv2"
	"github.com/polargate/polargate/rpcgate"
	"google.golang.org/genproto/googleapis/rpc/errdetails"
	"google.golang.org/protobuf/proto"
	"google.golang.org/protobuf/types/known/anypb"
	"google.golang.org/protobuf/types/known/durationpb"
)

// FuzzFromError reads errors of servers that anybody may have written.
func FuzzFromError(f *testing.F) {
	for _, message := range []proto.Message{
		&errdetails.ErrorInfo{Reason: rpcgate.NotEntitled, Domain: rpcgate.Domain, Metadata: map[string]string{"required": "feature pro"}},
		&errdetails.RetryInfo{RetryDelay: &durationpb.Duration{Seconds: -1 << 40, Nanos: 1<<31 - 1}},
	} {
		packed, err := anypb.New(message)
		if err != nil {
			f.Fatal(err)
		}
		f.Add(packed.GetTypeUrl(), packed.GetValue())
	}
	f.Add("type.googleapis.com/no.such.Type", []byte{1})
	f.Fuzz(func(t *testing.T, name string, value []byte) {
		e := connect.NewError(connect.CodePermissionDenied, "refused")
		info, err := connectproto.NewErrorDetail(&errdetails.ErrorInfo{Reason: rpcgate.NotEntitled, Domain: rpcgate.Domain})
		if err != nil {
			t.Fatal(err)
		}
		for i := range 2 {
			if i > 0 {
				e = e.WithDetail(info)
			}
			if detail, err := connectproto.NewErrorDetail(&anypb.Any{TypeUrl: name, Value: value}); err == nil {
				e = e.WithDetail(detail)
			}
			refused, ok := polargateconnectv2.FromError(e)
			switch {
			case !ok && refused != rpcgate.Refused{}:
				t.Fatalf("what is no refusal says something: %+v", refused)
			case !ok && i > 0:
				t.Fatal("a detail of somebody else hides the refusal")
			case refused.RetryAfter < 0:
				t.Fatalf("a wait of %s", refused.RetryAfter)
			}
		}
	})
}
