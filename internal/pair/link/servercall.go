package link

import (
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

// signs tells the other side every now and then that its call is being worked at,
// from the end of the request on: before that, the bytes of the request tell.
func (c *call) signs(begin, done <-chan struct{}) {
	select {
	case <-begin:
	case <-done:
		return
	}
	tick := time.NewTicker(c.s.tm.alive)
	defer tick.Stop()
	for {
		select {
		case <-tick.C:
			if c.frame(frameAlive, nil) != nil {
				return
			}
		case <-done:
			return
		}
	}
}

// frame sends one frame. The other side must take it in time; one that reads slowly
// gets some more of it.
func (c *call) frame(kind byte, body []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.gone != nil {
		return c.gone
	}
	err := c.rc.SetWriteDeadline(time.Now().Add(4 * c.s.tm.silence))
	if err == nil {
		err = writeFrame(c.w, kind, body)
	}
	if err == nil {
		err = c.rc.Flush()
	}
	if err != nil {
		c.gone = fmt.Errorf("answer the other region: %w", err)
	}
	return c.gone
}

// end sends how the call ended. If that cannot be, the answer is cut, and the other
// side sees that it is.
func (c *call) end(result any, err error) {
	var o outcome
	if err == nil {
		o.Result, err = json.Marshal(result)
	}
	if err != nil {
		if e := backstay.AsError(err); e.Code == backstay.CodeInternal {
			c.s.Log.Error("call of a region failed", "region", c.region, "call", c.r.URL.Path, "error", err)
		}
		o = outcome{Error: show(err)}
	}
	body, err := json.Marshal(o)
	if err == nil && len(body) > maxResult {
		err = fmt.Errorf("a result of %d bytes", len(body))
	}
	if err == nil {
		err = c.frame(frameOutcome, body)
	}
	if err != nil {
		panic(http.ErrAbortHandler)
	}
}

// watchedBody is the body of a request: each piece of it must come in time.
type watchedBody struct {
	io.ReadCloser
	call  *call
	read  int64 // bytes so far
	once  sync.Once
	ended chan struct{}
}

// Read implements io.Reader.
func (b *watchedBody) Read(p []byte) (int, error) {
	if err := b.call.rc.SetReadDeadline(time.Now().Add(b.call.s.tm.silence)); err != nil {
		return 0, err
	}
	n, err := b.ReadCloser.Read(p)
	b.read += int64(n)
	if err != nil || b.read == b.call.r.ContentLength {
		b.once.Do(func() { close(b.ended) })
		if err == nil || errors.Is(err, io.EOF) {
			// From here on the connection is read only to see whether it is still there.
			if cleared := b.call.rc.SetReadDeadline(time.Time{}); cleared != nil {
				return n, cleared
			}
		}
	}
	return n, err
}

// bounded takes so many connections at a time, and closes what comes beyond them.
type bounded struct {
	net.Listener
	slots chan struct{}
}

func newBounded(l net.Listener, n int) *bounded {
	return &bounded{Listener: l, slots: make(chan struct{}, n)}
}

// Accept implements net.Listener.
func (b *bounded) Accept() (net.Conn, error) {
	for {
		conn, err := b.Listener.Accept()
		if err != nil {
			return nil, err
		}
		select {
		case b.slots <- struct{}{}:
			return &boundedConn{Conn: conn, leave: sync.OnceFunc(func() { <-b.slots })}, nil
		default:
			_ = conn.Close() // it was never used
		}
	}
}

type boundedConn struct {
	net.Conn
	leave func()
}

// Close implements net.Conn.
func (c *boundedConn) Close() error {
	c.leave()
	return c.Conn.Close()
}
