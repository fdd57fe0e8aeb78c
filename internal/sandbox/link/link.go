// Package link is the wire between two regions of a sandbox, and the door to a
// region that has a network of its own: TCP connections are taken in one network
// namespace and carried on in another. On the way they can be stalled, ended in the
// midst or changed, as a bad line, a firewall or a broken device does.
//
// It knows nothing of what it carries, and nothing of the product.
package link

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"sync"
	"time"

	"golang.org/x/sys/unix"
)

// Route is one way that connections take: what arrives at Listen goes to To.
type Route struct {
	Listen string
	To     string
	// Namespace is the file of the network namespace in which To is dialled; empty for
	// that of the process.
	Namespace string
}

// Rules say what is wrong with the link. The zero value is a good one.
type Rules struct {
	// Stalled: nothing passes, and nothing ends.
	Stalled bool
	// Closed: every connection is reset, and so is each new one.
	Closed bool
	// CorruptAfter changes one byte of what passes after so many further bytes, once; 0 for never.
	CorruptAfter int64
	// CutAfter closes the link after so many further bytes, until it is mended; 0 for never.
	CutAfter int64
}

// Stats are what passed a link since it began, both ways.
type Stats struct {
	Connections int64
	Bytes       int64
	Corrupted   int64 // bytes that were changed
	Cuts        int64 // times that CutAfter came true
}

// Link carries connections by its rules.
type Link struct {
	mu      sync.Mutex
	changed chan struct{} // closed and made anew with each change of the rules; guarded by mu
	rules   Rules         // guarded by mu
	stats   Stats         // guarded by mu
	open    map[*pipe]struct{}
}

// pipe is one connection with both its ends.
type pipe struct{ in, out net.Conn }

// reset ends both ends at once, without a word.
func (p *pipe) reset() {
	for _, c := range []net.Conn{p.in, p.out} {
		if tcp, ok := c.(*net.TCPConn); ok {
			_ = tcp.SetLinger(0)
		}
		_ = c.Close()
	}
}

// New returns a good link.
func New() *Link { return &Link{changed: make(chan struct{}), open: map[*pipe]struct{}{}} }

// Set puts new rules into force, for connections that are open too.
func (l *Link) Set(r Rules) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.set(r)
}

func (l *Link) set(r Rules) {
	l.rules = r
	close(l.changed)
	l.changed = make(chan struct{})
	if r.Closed {
		for p := range l.open {
			p.reset()
		}
	}
}

// Stats returns what passed.
func (l *Link) Stats() Stats {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.stats
}

// Serve listens at all routes and carries what comes until ctx ends. ready, if not
// nil, is called once all routes are listened at.
func (l *Link) Serve(ctx context.Context, routes []Route, ready func() error) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	var all sync.WaitGroup
	defer all.Wait()
	for _, r := range routes {
		listener, err := (&net.ListenConfig{}).Listen(ctx, "tcp", r.Listen)
		if err != nil {
			cancel(nil)
			return fmt.Errorf("listen for the link: %w", err)
		}
		defer context.AfterFunc(ctx, func() { _ = listener.Close() })()
		all.Go(func() { cancel(l.accept(ctx, listener, r)) })
	}
	if ready != nil {
		if err := ready(); err != nil {
			cancel(err)
		}
	}
	<-ctx.Done()
	if err := context.Cause(ctx); !errors.Is(err, context.Canceled) {
		return err
	}
	return nil
}

func (l *Link) accept(ctx context.Context, listener net.Listener, r Route) error {
	var all sync.WaitGroup
	defer all.Wait()
	for {
		in, err := listener.Accept()
		if err != nil {
			if ctx.Err() != nil {
				return nil
			}
			return fmt.Errorf("take a connection of the link: %w", err)
		}
		all.Go(func() { l.carry(ctx, in, r) })
	}
}

// patience bounds how long a connection is tried to be made.
const patience = 5 * time.Second

// carry carries one connection until either side ends it.
func (l *Link) carry(ctx context.Context, in net.Conn, r Route) {
	p := &pipe{in: in, out: in}
	if !l.passable(ctx) {
		p.reset()
		return
	}
	out, err := dial(ctx, r)
	if err != nil {
		p.reset()
		return
	}
	p.out = out
	l.mu.Lock()
	l.open[p] = struct{}{}
	l.stats.Connections++
	l.mu.Unlock()
	stop := context.AfterFunc(ctx, p.reset)
	defer func() {
		stop()
		l.mu.Lock()
		delete(l.open, p)
		l.mu.Unlock()
		_, _ = in.Close(), out.Close()
	}()
	var both sync.WaitGroup
	both.Go(func() { l.pump(ctx, p, in, out) })
	both.Go(func() { l.pump(ctx, p, out, in) })
	both.Wait()
}

// passable waits while the link is stalled; false if it is closed.
func (l *Link) passable(ctx context.Context) bool {
	for {
		l.mu.Lock()
		r, changed := l.rules, l.changed
		l.mu.Unlock()
		if !r.Stalled {
			return !r.Closed
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false
		}
	}
}

// pump copies one direction. The end of it is passed on, as an end of writing.
func (l *Link) pump(ctx context.Context, p *pipe, from, to net.Conn) {
	buffer := make([]byte, 64<<10)
	for {
		n, err := from.Read(buffer)
		if n > 0 {
			if !l.passable(ctx) || !l.pass(buffer[:n]) {
				p.reset()
				return
			}
			if _, err := to.Write(buffer[:n]); err != nil {
				p.reset()
				return
			}
		}
		if errors.Is(err, io.EOF) {
			if tcp, ok := to.(*net.TCPConn); ok {
				_ = tcp.CloseWrite()
			}
			return
		}
		if err != nil {
			p.reset()
			return
		}
	}
}

// pass counts bytes that are about to pass, and does to them what the rules say;
// false if they do not arrive.
func (l *Link) pass(b []byte) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	n := int64(len(b))
	if at := l.rules.CorruptAfter; at > 0 {
		if l.rules.CorruptAfter = at - n; at <= n {
			b[at-1] ^= 0x20
			l.rules.CorruptAfter = 0
			l.stats.Corrupted++
		}
	}
	if at := l.rules.CutAfter; at > 0 {
		if l.rules.CutAfter = at - n; at <= n {
			l.stats.Cuts++
			l.set(Rules{Closed: true})
			return false
		}
	}
	l.stats.Bytes += n
	return !l.rules.Closed
}

// dial connects to where the route leads. A socket belongs to the namespace of the
// thread that made it, wherever it is used: the thread is given up after that.
func dial(ctx context.Context, r Route) (net.Conn, error) {
	ctx, cancel := context.WithTimeout(ctx, patience)
	defer cancel()
	if r.Namespace == "" {
		return (&net.Dialer{}).DialContext(ctx, "tcp", r.To)
	}
	type result struct {
		conn net.Conn
		err  error
	}
	done := make(chan result, 1)
	go func() {
		runtime.LockOSThread() // and never unlocked: the thread ends with this goroutine
		fd, err := unix.Open(r.Namespace, unix.O_RDONLY|unix.O_CLOEXEC, 0)
		if err != nil {
			done <- result{nil, fmt.Errorf("open network namespace: %w", err)}
			return
		}
		err = unix.Setns(fd, unix.CLONE_NEWNET)
		_ = unix.Close(fd)
		if err != nil {
			done <- result{nil, fmt.Errorf("enter network namespace: %w", err)}
			return
		}
		conn, err := (&net.Dialer{}).DialContext(ctx, "tcp", r.To)
		done <- result{conn, err}
	}()
	got := <-done
	return got.conn, got.err
}
