package cookbook

import (
	"bufio"
	"context"
	"io"
	"net"
	"strings"
	"time"
)

// The system starts the program again for a link such as inkwell://activate?key=…, with the link
// as its argument, while it may be running already. So the second one hands the link to the
// first, by a socket that only this user can use: put it into a folder of the user's own.

// HandOver gives a link to the program that is running already. It reports false if none is.
func HandOver(socket, link string) bool {
	conn, err := net.DialTimeout("unix", socket, time.Second)
	if err != nil {
		return false
	}
	defer conn.Close()
	_, err = io.WriteString(conn, link+"\n")
	return err == nil
}

// Links calls ask, such as Page.Ask of the license page, with each link that is handed over,
// until ctx ends. The page only asks: it activates nothing before the user agrees.
func Links(ctx context.Context, socket string, ask func(link string) error) error {
	listener, err := net.Listen("unix", socket)
	if err != nil {
		return err
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	for {
		conn, err := listener.Accept()
		if ctx.Err() != nil {
			return nil
		} else if err != nil {
			return err
		}
		_ = conn.SetDeadline(time.Now().Add(time.Second))
		link, err := bufio.NewReader(io.LimitReader(conn, 4096)).ReadString('\n')
		_ = conn.Close()
		if err == nil {
			_ = ask(strings.TrimSpace(link)) // the page explains what is wrong with it
		}
	}
}
