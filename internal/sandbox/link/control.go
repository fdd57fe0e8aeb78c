package link

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"time"
)

// Config is a process that carries connections: see Run.
type Config struct {
	Routes []Route
	// Control is the socket at which the rules are changed; empty for a link that
	// stays good.
	Control string
}

// Ready is what Run prints once connections are taken.
const Ready = "link is up"

// Run carries connections until ctx ends. It says Ready to out.
func Run(ctx context.Context, c Config, out io.Writer) error {
	l := New()
	ready := func() error {
		_, err := fmt.Fprintln(out, Ready)
		return err
	}
	if c.Control == "" {
		return l.Serve(ctx, c.Routes, ready)
	}
	if err := os.Remove(c.Control); err != nil && !errors.Is(err, os.ErrNotExist) {
		return err
	}
	listener, err := net.Listen("unix", c.Control)
	if err != nil {
		return fmt.Errorf("listen for the control of the link: %w", err)
	}
	defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
	go l.control(listener)
	return l.Serve(ctx, c.Routes, ready)
}

// control answers each connection's one question: new rules, or null to let the
// rules be. The answer is what passed until then.
func (l *Link) control(listener net.Listener) {
	for {
		conn, err := listener.Accept()
		if err != nil {
			return
		}
		var rules *Rules
		if json.NewDecoder(conn).Decode(&rules) == nil {
			if rules != nil {
				l.Set(*rules)
			}
			_ = json.NewEncoder(conn).Encode(l.Stats())
		}
		_ = conn.Close()
	}
}

// Ask changes the rules of the link that is controlled at a socket, unless they are
// nil, and returns what passed it.
func Ask(ctx context.Context, socket string, rules *Rules) (Stats, error) {
	var stats Stats
	conn, err := (&net.Dialer{Timeout: patience}).DialContext(ctx, "unix", socket)
	if err != nil {
		return stats, fmt.Errorf("reach the link: %w", err)
	}
	defer conn.Close()
	_ = conn.SetDeadline(time.Now().Add(patience))
	if err := json.NewEncoder(conn).Encode(rules); err != nil {
		return stats, fmt.Errorf("change the rules of the link: %w", err)
	}
	if err := json.NewDecoder(conn).Decode(&stats); err != nil {
		return stats, fmt.Errorf("change the rules of the link: %w", err)
	}
	return stats, nil
}
