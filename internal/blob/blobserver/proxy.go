package blobserver

import (
	"net"
	"sync"
	"testing"
	"time"
)

// Proxy passes connections on to a server, and breaks them as it is told.
type Proxy struct {
	Addr string // HOST:PORT

	target string
	mu     sync.Mutex
	up     *int64        // bytes to the server until the cut; guarded by mu
	down   *int64        // bytes to the client until the cut; guarded by mu
	cuts   int           // guarded by mu
	hung   chan struct{} // not nil: nothing moves until it is closed; guarded by mu
	slow   time.Duration // for each piece of an answer; guarded by mu
	open   map[net.Conn]bool
}

// NewProxy returns a proxy to a server's address. It ends with the test.
func NewProxy(t testing.TB, target string) *Proxy {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &Proxy{Addr: l.Addr().String(), target: target, open: map[net.Conn]bool{}}
	var wg sync.WaitGroup
	wg.Go(func() {
		for {
			client, err := l.Accept()
			if err != nil {
				return
			}
			wg.Go(func() { p.serve(client) })
		}
	})
	t.Cleanup(func() {
		l.Close()
		p.Resume()
		p.mu.Lock()
		for c := range p.open {
			c.Close()
		}
		p.mu.Unlock()
		wg.Wait()
	})
	return p
}

// CutUp cuts the connection over which, counted over all, the given number of
// bytes went to the server; CutDown counts those that went to the client.
func (p *Proxy) CutUp(after int64) { p.set(func() { p.up = &after }) }

// CutDown see CutUp.
func (p *Proxy) CutDown(after int64) { p.set(func() { p.down = &after }) }

// Slow makes each piece of an answer, of at most 32 KiB, wait.
func (p *Proxy) Slow(d time.Duration) { p.set(func() { p.slow = d }) }

// Hang lets nothing through until Resume.
func (p *Proxy) Hang() {
	p.set(func() {
		if p.hung == nil {
			p.hung = make(chan struct{})
		}
	})
}

// Resume ends Hang.
func (p *Proxy) Resume() {
	p.set(func() {
		if p.hung != nil {
			close(p.hung)
			p.hung = nil
		}
	})
}

// Cuts returns how many connections were cut.
func (p *Proxy) Cuts() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.cuts
}

func (p *Proxy) set(fn func()) {
	p.mu.Lock()
	defer p.mu.Unlock()
	fn()
}

func (p *Proxy) serve(client net.Conn) {
	server, err := net.Dial("tcp", p.target)
	if err != nil {
		client.Close()
		return
	}
	p.set(func() { p.open[client], p.open[server] = true, true })
	var wg sync.WaitGroup
	wg.Go(func() { p.pipe(server, client, true) })
	wg.Go(func() { p.pipe(client, server, false) })
	wg.Wait()
	p.set(func() { delete(p.open, client); delete(p.open, server) })
}

// pipe copies until an end or a cut, and closes both then.
func (p *Proxy) pipe(to, from net.Conn, up bool) {
	defer to.Close()
	defer from.Close()
	piece := make([]byte, 32<<10)
	for {
		n, err := from.Read(piece)
		pass, cut := p.allow(int64(n), up)
		if _, writeErr := to.Write(piece[:pass]); err != nil || writeErr != nil || cut {
			return
		}
	}
}

// allow waits as planned, and returns how many of n bytes may pass and whether the
// connection is cut behind them.
func (p *Proxy) allow(n int64, up bool) (int64, bool) {
	p.mu.Lock()
	hung, slow := p.hung, p.slow
	p.mu.Unlock()
	if hung != nil {
		<-hung
	}
	if slow > 0 && !up {
		time.Sleep(slow)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	left := &p.down
	if up {
		left = &p.up
	}
	if *left == nil {
		return n, false
	}
	if n <= **left {
		**left -= n
		return n, false
	}
	n, *left = **left, nil
	p.cuts++
	return n, true
}
