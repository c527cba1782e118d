// Command polar is a Polar (polar.sh) to test against, as a process: for programs in any language, for
// several processes at once, and by hand. It is package polartest behind two loopback ports, one that
// answers as Polar's API does and one to control it. Everything is in memory and ends with the process.
//
//	go run github.com/polargate/polargate/polartest/cmd/polar
//
// It prints what a program needs as lines of NAME=value, which a shell can read, and then serves until
// it is interrupted. README.md beside this file shows the control API with curl; GET / of the control
// port lists its paths.
package main

import (
	"context"
	"crypto/rand"
	"errors"
	"flag"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"os"
	"os/signal"
	"syscall"
	"time"

	"github.com/polargate/polargate/polartest"
)

func main() {
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, os.Args[1:], os.Stdout, os.Stderr)
	stop()
	switch {
	case errors.Is(err, flag.ErrHelp):
	case errors.Is(err, errUsage):
		os.Exit(64)
	case err != nil:
		fmt.Fprintln(os.Stderr, "polar:", err)
		os.Exit(1)
	}
}

var errUsage = errors.New("usage")

type options struct {
	config              polartest.Config
	address, control    string
	token, controlToken string
	imports             []string
}

func parse(args []string, stderr io.Writer) (*options, error) {
	o := &options{}
	f := flag.NewFlagSet("polar", flag.ContinueOnError)
	f.SetOutput(stderr)
	f.StringVar(&o.address, "address", "127.0.0.1:0", "loopback `address` of the API; port 0 is a free one")
	f.StringVar(&o.control, "control", "127.0.0.1:0", "loopback `address` of the control API")
	f.StringVar(&o.config.OrganizationID, "organization", "", "`id` of the organization, a UUID of version 4; empty: a random one")
	f.StringVar(&o.token, "token", "", "access `token` of the organization; empty: a random one")
	f.StringVar(&o.controlToken, "control-token", "", "`token` of the control API; empty: a random one")
	f.BoolVar(&o.config.MemberModel, "members", false, "the organization has members (member_model_enabled)")
	f.BoolVar(&o.config.Sandbox, "sandbox", false, "limits as in Polar's sandbox: 100 requests a minute")
	f.BoolVar(&o.config.Unlimited, "unlimited", false, "no rate limits")
	f.BoolVar(&o.config.EventuallyConsistent, "eventually-consistent", false, "states of customers lag behind, as Polar's cache can")
	f.Func("import", "`file` of JSON as Polar's API answers it, to start with; may be given several times", func(path string) error {
		o.imports = append(o.imports, path)
		return nil
	})
	if err := f.Parse(args); err != nil {
		if errors.Is(err, flag.ErrHelp) {
			return nil, err
		}
		return nil, errUsage
	}
	if f.NArg() > 0 {
		fmt.Fprintf(stderr, "polar: unexpected argument %q\n", f.Arg(0))
		return nil, errUsage
	}
	return o, nil
}

// run serves until the context ends.
func run(ctx context.Context, args []string, stdout, stderr io.Writer) (err error) {
	o, err := parse(args, stderr)
	if err != nil {
		return err
	}
	defer func() { // a value that Polar could not have, such as an organization that is no UUID
		if text, ours := recover().(string); ours {
			err = errors.New(text)
		}
	}()
	p := polartest.New(o.config)
	for _, path := range o.imports {
		data, err := os.ReadFile(path)
		if err != nil {
			return err
		}
		if err := p.Import(data); err != nil {
			return fmt.Errorf("%s: %w", path, err)
		}
	}
	token := p.AddToken(polartest.Token{Token: o.token})
	if o.controlToken == "" {
		o.controlToken = rand.Text()
	}
	api, err := listen(o.address)
	if err != nil {
		return err
	}
	control, err := listen(o.control)
	if err != nil {
		return errors.Join(err, api.Close())
	}
	if _, err := fmt.Fprintf(stdout, "POLAR_API_URL=http://%s\nPOLAR_ORGANIZATION_ID=%s\nPOLAR_ACCESS_TOKEN=%s\nPOLAR_CONTROL_URL=http://%s\nPOLAR_CONTROL_TOKEN=%s\n",
		api.Addr(), p.OrganizationID(), token, control.Addr(), o.controlToken); err != nil {
		return errors.Join(err, api.Close(), control.Close())
	}
	return serve(ctx, map[net.Listener]http.Handler{api: p, control: newControl(p, o.controlToken)})
}

// listen refuses what others than this computer could reach: the tokens are printed, and anybody who
// has one can do anything.
func listen(address string) (net.Listener, error) {
	host, _, err := net.SplitHostPort(address)
	if err != nil {
		return nil, err
	}
	if ip := net.ParseIP(host); host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return nil, fmt.Errorf("%s is not a loopback address: use 127.0.0.1, ::1 or localhost", address)
	}
	return net.Listen("tcp", address)
}

// serve answers on all listeners until the context ends, or one of them fails.
func serve(ctx context.Context, handlers map[net.Listener]http.Handler) error {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan error, len(handlers))
	var servers []*http.Server
	for listener, handler := range handlers {
		server := &http.Server{
			Handler:           handler,
			ReadHeaderTimeout: 10 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return ctx }, // what hangs ends with the process
			ErrorLog:          log.New(io.Discard, "", 0),
		}
		servers = append(servers, server)
		go func() { ended <- server.Serve(listener) }()
	}
	var err error
	left := len(servers)
	select {
	case <-ctx.Done():
	case err = <-ended:
		left--
	}
	cancel()
	for _, server := range servers {
		_ = server.Close()
	}
	for range left {
		<-ended
	}
	return err
}
