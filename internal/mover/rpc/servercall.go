package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"runtime/debug"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// serverCall is one running call on the host's side.
type serverCall struct {
	side   *side
	method string
	ctx    context.Context
	cancel context.CancelCauseFunc
	rc     *http.ResponseController
	body   *limitedBody
	in     *json.Decoder
	ended  chan struct{} // closed when the work is done
	// content is what the client sends after the request; nil if the method takes none.
	content chan []byte

	mu    sync.Mutex // guards out, raw, bulk, phase and last
	out   *json.Encoder
	raw   io.Writer // below out
	bulk  bool      // much is on its way, one way or the other
	phase string
	last  time.Time
}

// The reasons for which a call's context ends on the host's side.
var (
	errGone      = errors.New("the server that made the call went away")
	errSilent    = errors.New("the server that made the call gave no sign of life")
	errCancelled = errors.New("the server cancelled the call")
)

func newServerCall(s *side, method string, w http.ResponseWriter, r *http.Request) *serverCall {
	// Not the request's context: that ends without a reason when the connection
	// does. listen notices as soon, and says why.
	ctx, cancel := context.WithCancelCause(s.base)
	body := &limitedBody{r: r.Body, left: maxRequest}
	return &serverCall{
		side: s, method: method, ctx: ctx, cancel: cancel,
		rc: http.NewResponseController(w), in: json.NewDecoder(body), body: body, out: json.NewEncoder(w), raw: w,
		ended: make(chan struct{}),
	}
}

// receive reads the request. Duplex comes first: without it the answer could
// not start before the request's stream has ended.
func (c *serverCall) receive(request any) error {
	if err := c.rc.EnableFullDuplex(); err != nil {
		return fmt.Errorf("speak both ways: %w", err)
	}
	if err := c.rc.SetReadDeadline(later(c.side.tm.silence)); err != nil {
		return fmt.Errorf("set deadline: %w", err)
	}
	if err := c.in.Decode(request); err != nil {
		return fmt.Errorf("decode request: %w", err)
	}
	return nil
}

// run does the work, keeps both sides aware of each other, and answers. It
// returns when its helpers have.
func (c *serverCall) run(work func(context.Context) (any, error)) {
	defer c.cancel(nil)
	c.send(answer{}) // the client learns at once that it was heard
	var helpers sync.WaitGroup
	heard := make(chan struct{})
	helpers.Go(func() {
		defer close(heard)
		c.listen()
	})
	helpers.Go(func() { c.beats(c.ended) })

	result, err := c.guarded(work)
	c.answer(result, err)
	close(c.ended)
	if c.lingers() {
		<-heard
	}
	_ = c.rc.SetReadDeadline(time.Unix(1, 0)) // ends listen
	helpers.Wait()
}

// lingers tells whether the end of the answer may still be on its way when we hang up,
// to a client that reads slowly, or sends. A connection of which one side is closed
// drops that as soon as the client says anything; so the client hangs up first.
func (c *serverCall) lingers() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.bulk
}

// guarded runs the work and makes an error of a panic, so that one bad call
// does not look like a lost host.
func (c *serverCall) guarded(work func(context.Context) (any, error)) (result any, err error) {
	defer func() {
		if p := recover(); p != nil {
			c.side.log.Error("mover call panicked", "method", c.method, "panic", p, "stack", string(debug.Stack()))
			err = backstay.Errorf(backstay.CodeInternal, "the mover failed in %s", c.method)
		}
	}()
	return work(c.ctx)
}

func (c *serverCall) answer(result any, err error) {
	if err == nil {
		raw, encodeErr := json.Marshal(result)
		if encodeErr == nil {
			c.send(answer{Result: raw})
			return
		}
		err = fmt.Errorf("encode result: %w", encodeErr)
	}
	e := c.side.coded(c.ctx, err)
	c.side.log.Warn("mover call failed", "method", c.method, "code", string(e.Code), "error", err.Error())
	c.send(answer{Error: e})
}

// listen takes the client's signs of life and its wish to cancel.
func (c *serverCall) listen() {
	for {
		if err := c.rc.SetReadDeadline(later(c.side.tm.silence)); err != nil {
			c.cancel(errGone)
			return
		}
		var s sign
		switch err := c.in.Decode(&s); {
		case err == nil && s.Cancel:
			c.cancel(errCancelled)
		case err == nil && c.content != nil:
			c.take(s)
		case err == nil:
		case isTimeout(err):
			c.cancel(errSilent)
			return
		default:
			c.cancel(errGone)
			return
		}
	}
}

func (c *serverCall) beats(done <-chan struct{}) {
	ticker := time.NewTicker(c.side.tm.beat)
	defer ticker.Stop()
	for {
		select {
		case <-done:
			return
		case <-ticker.C:
			c.send(answer{})
		}
	}
}

// progress sends a report, and leaves out those that nobody would miss: a
// report of the same phase within the gap, unless it names a pack or the end.
func (c *serverCall) progress(p any) {
	if r, ok := p.(mover.Report); ok && !c.worthSending(r) {
		return
	}
	raw, err := json.Marshal(p)
	if err != nil {
		c.side.log.Error("encode progress", "method", c.method, "error", err)
		return
	}
	c.send(answer{Progress: raw})
}

func (c *serverCall) worthSending(r mover.Report) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	now := time.Now()
	if r.Pack == "" && r.Phase == c.phase && r.Done < r.Total && now.Sub(c.last) < c.side.tm.gap {
		return false
	}
	c.phase, c.last = r.Phase, now
	return true
}

// send writes one line. A client that does not take it in time is gone.
func (c *serverCall) send(a answer) {
	c.mu.Lock()
	defer c.mu.Unlock()
	err := c.rc.SetWriteDeadline(later(c.side.tm.silence))
	if err == nil {
		err = c.out.Encode(a)
	}
	if err == nil {
		err = c.rc.Flush()
	}
	if err != nil {
		c.cancel(errGone)
	}
}

func isTimeout(err error) bool {
	var t interface{ Timeout() bool }
	return errors.As(err, &t) && t.Timeout()
}

// limitedBody bounds what one call may send in all.
type limitedBody struct {
	r    io.Reader
	left int64
}

func (l *limitedBody) Read(p []byte) (int, error) {
	if l.left <= 0 {
		return 0, errors.New("request is too long")
	}
	if int64(len(p)) > l.left {
		p = p[:l.left]
	}
	n, err := l.r.Read(p)
	l.left -= int64(n)
	return n, err
}
