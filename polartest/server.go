package polartest

import (
	"context"
	"crypto/tls"
	"io"
	"log"
	"maps"
	"net"
	"net/http"
	"strconv"
	"time"
)

// Server is a [Polar] on a loopback port, for clients that bring their own transport, other
// processes, and browsers. [Polar.Start] makes one.
type Server struct {
	// URL is its base, without a slash at the end: http://127.0.0.1:49152.
	URL string

	http   *http.Server
	cancel context.CancelFunc
	done   chan struct{}
}

// Start listens on a free port of 127.0.0.1 until Close is called.
func (p *Polar) Start() (*Server, error) {
	listener, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return nil, err
	}
	ctx, cancel := context.WithCancel(context.Background())
	s := &Server{
		URL: "http://" + listener.Addr().String(),
		http: &http.Server{
			Handler:           p,
			ReadHeaderTimeout: 10 * time.Second,
			BaseContext:       func(net.Listener) context.Context { return ctx },
			ErrorLog:          log.New(io.Discard, "", 0),
		},
		cancel: cancel,
		done:   make(chan struct{}),
	}
	go func() {
		defer close(s.done)
		_ = s.http.Serve(listener) // ends with ErrServerClosed
	}()
	return s, nil
}

// Close ends the server and all its connections, hanging ones too. The Polar itself stays as it is.
func (s *Server) Close() error {
	s.cancel()
	err := s.http.Close()
	<-s.done
	return err
}

// write hands over a delivery through a server. What cannot be done with a ResponseWriter is done to
// the connection below.
func (d delivery) write(w http.ResponseWriter, r *http.Request) {
	ctx := r.Context()
	if d.travel.hang {
		<-ctx.Done()
	}
	if d.travel.delay > 0 {
		pause(ctx, nil, d.travel.delay)
	}
	if ctx.Err() != nil {
		panic(http.ErrAbortHandler)
	}
	switch {
	case d.travel.cut == cutConnect, d.travel.cut == cutReset:
		breakOff(w, true)
	case d.travel.cut == cutClose, d.travel.cut == cutHalf && len(d.answer.body) == 0:
		breakOff(w, false)
	}
	a := d.answer
	header := w.Header()
	maps.Copy(header, a.header)
	if _, ok := header["Content-Type"]; !ok {
		header["Content-Type"] = nil // nothing is to be guessed
	}
	if !d.travel.huge && a.status != http.StatusNoContent {
		header.Set("Content-Length", strconv.Itoa(len(a.body)))
	}
	w.WriteHeader(a.status)
	if r.Method == http.MethodHead || a.status == http.StatusNoContent {
		return
	}
	flush := func() { _ = http.NewResponseController(w).Flush() } // a recorder in a test may not know how
	switch {
	case d.travel.huge:
		_, _ = io.Copy(w, newHugeReader())
	case d.travel.cut == cutHalf:
		_, _ = w.Write(a.body[:len(a.body)/2])
		flush()
		panic(http.ErrAbortHandler)
	case d.travel.drip > 0:
		flush()
		for i := range a.body {
			pause(ctx, nil, d.travel.drip)
			if ctx.Err() != nil {
				panic(http.ErrAbortHandler)
			}
			_, _ = w.Write(a.body[i : i+1])
			flush()
		}
	default:
		_, _ = w.Write(a.body)
	}
}

// breakOff ends the connection without an answer. It does not return.
func breakOff(w http.ResponseWriter, reset bool) {
	if conn, _, err := http.NewResponseController(w).Hijack(); err == nil {
		socket := conn
		if t, ok := conn.(*tls.Conn); ok {
			socket = t.NetConn()
		}
		if tcp, ok := socket.(*net.TCPConn); ok && reset {
			_ = tcp.SetLinger(0) // closing now sends RST
		}
		_ = socket.Close()
	}
	panic(http.ErrAbortHandler) // HTTP/2 and recorders, which cannot be hijacked, end here as well
}
