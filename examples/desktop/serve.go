package main

import (
	"context"
	"flag"
	"fmt"
	"io"
	"sync"

	"github.com/polargate/polargate"
	"github.com/polargate/polargate/licensepage"
)

// serve shows the program and its license page in the browser, until ctx ends.
func serve(ctx context.Context, gate *polargate.Gate, demo *demo, options licensepage.Options, args []string, out io.Writer) error {
	openBrowser, err := serveFlags(args)
	if err != nil {
		return err
	}
	// The license stays verified while the page is open.
	ctx, cancel := context.WithCancel(ctx)
	var running sync.WaitGroup
	running.Go(func() { _ = gate.Run(ctx) })
	defer running.Wait()
	defer cancel()

	options.Product, options.Home = "Inkwell", "/"
	options.FeatureNames = map[string]string{"export": "Export", "sync": "Sync"}
	d := &desk{gate: gate, demo: demo}
	return licensepage.Handler(gate, options).Serve(ctx, d.routes(), func(link string) {
		fmt.Fprintf(out, "Inkwell is at\n\n  %s\n\nThe address works once. Press Ctrl-C to quit.\n", link)
		if openBrowser && licensepage.OpenURL(link) != nil {
			fmt.Fprintln(out, "No browser could be started. Open the address yourself.")
		}
	})
}

func serveFlags(args []string) (openBrowser bool, err error) {
	flags := flag.NewFlagSet("serve", flag.ContinueOnError)
	noBrowser := flags.Bool("no-browser", false, "")
	err = parse(flags, args)
	return !*noBrowser, err
}
