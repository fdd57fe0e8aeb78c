package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"runtime"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// channel carries calls to a machine and what comes back, several at a time. It
// believes nothing that comes: what does not fit ends the channel, and with it the
// machine.
type channel struct {
	conn  net.Conn
	slots []byte // the memory that the machine sees too

	write sync.Mutex // held while one frame is written

	mu     sync.Mutex
	calls  map[uint32]*call // those whose end has not come; guarded by mu
	free   []uint32         // slots that nobody has; guarded by mu
	last   uint32           // the number of the newest call; guarded by mu
	err    error            // why the channel ended; guarded by mu
	ended  chan struct{}    // closed when err is set
	broken func(error)      // told once, outside mu
	limit  time.Duration    // how long a call may be without news

	answers atomic.Int64 // bytes of the answers of all open calls
}

// mostAnswers bounds the answers of all open calls together, in bytes.
const mostAnswers = 2 * wire.MaxAnswer

// writeLimit is how long a machine may take to accept a frame.
const writeLimit = 2 * time.Minute

// call is one call as its client sees it.
type call struct {
	ch *channel
	id uint32

	mu     sync.Mutex
	answer []byte          // in its parts so far; guarded by mu
	data   []chunk         // of a stream, not yet read; guarded by mu
	held   int             // bytes of data that are in no slot; guarded by mu
	lent   map[uint32]bool // slots that the machine has; guarded by mu
	done   bool            // nothing more will come; guarded by mu
	left   bool            // nobody will read what comes; guarded by mu
	err    error           // of a call that is done; nil if it went well; guarded by mu
	news   chan struct{}   // tells that one of these changed
}

// chunk is a piece of a stream.
type chunk struct {
	bytes []byte // with a slot, the machine may still change them: they are copied before they are looked at
	slot  uint32
	own   bool // in memory of our own, and no slot
}

func newChannel(conn net.Conn, slots []byte, limit time.Duration, broken func(error)) *channel {
	ch := &channel{conn: conn, slots: slots, limit: limit, calls: map[uint32]*call{}, ended: make(chan struct{}), broken: broken}
	for i := range uint32(wire.Slots) {
		ch.free = append(ch.free, i)
	}
	// Whoever still reads a stream has the channel: the memory outlives the machine.
	runtime.AddCleanup(ch, func(b []byte) { _ = unix.Munmap(b) }, slots)
	return ch
}

// How a machine fails: it does not keep to the protocol, does not answer, or its
// process has ended.
var (
	errProtocol = errors.New("it does not answer as it should")
	errSilent   = errors.New("it hangs")
	errEnded    = errors.New("it ended")
)

// read takes what the machine sends until the channel ends.
func (ch *channel) read(in *bufio.Reader) {
	for {
		f, err := wire.ReadFrame(in)
		if err == nil {
			err = ch.take(f)
		}
		if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) || errors.Is(err, unix.ECONNRESET) || errors.Is(err, net.ErrClosed) {
			err = errEnded
		}
		if err != nil {
			ch.end(err)
			return
		}
	}
}

// end fails every call, now and later, with the first reason given.
func (ch *channel) end(err error) {
	ch.mu.Lock()
	if ch.err != nil {
		ch.mu.Unlock()
		return
	}
	ch.err = err
	calls := ch.calls
	ch.calls = nil
	close(ch.ended)
	ch.mu.Unlock()
	ch.broken(err)
	for _, c := range calls {
		c.finish(err)
	}
}

func (ch *channel) take(f wire.Frame) error {
	ch.mu.Lock()
	c, ended := ch.calls[f.Call], ch.err
	ch.mu.Unlock()
	if ended != nil {
		return ended
	}
	if c == nil {
		return fmt.Errorf("%w: a frame of a call that is not open", errProtocol)
	}
	if err := c.take(f); err != nil {
		return err
	}
	if f.Kind == wire.FrameAnswer || f.Kind == wire.FrameEnd || f.Kind == wire.FrameError {
		ch.forget(c)
	}
	return nil
}

// forget ends a call for the channel: what the machine had of it is ours again.
func (ch *channel) forget(c *call) {
	c.mu.Lock()
	var back []uint32
	for slot := range c.lent {
		back = append(back, slot)
	}
	c.lent = nil
	ch.answers.Add(-int64(len(c.answer)))
	c.mu.Unlock()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	delete(ch.calls, c.id)
	ch.free = append(ch.free, back...)
}

func (c *call) take(f wire.Frame) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	defer c.tell()
	switch f.Kind {
	case wire.FramePart, wire.FrameAnswer:
		if len(c.answer)+len(f.Body) > wire.MaxAnswer || c.ch.answers.Add(int64(len(f.Body))) > mostAnswers {
			return fmt.Errorf("%w: an answer is too long", errProtocol)
		}
		c.answer = append(c.answer, f.Body...)
		c.done = f.Kind == wire.FrameAnswer
	case wire.FrameFilled:
		return c.filled(f.Body)
	case wire.FrameData:
		if c.held += len(f.Body); c.held > wire.Window {
			return fmt.Errorf("%w: more data than it was asked for", errProtocol)
		}
		if len(f.Body) > 0 && !c.left {
			c.data = append(c.data, chunk{bytes: f.Body, own: true})
		}
	case wire.FrameEnd:
		c.done = true
	case wire.FrameError:
		var e wire.Error
		if err := json.Unmarshal(f.Body, &e); err != nil {
			return fmt.Errorf("%w: %w", errProtocol, err)
		}
		c.done, c.err = true, e.Err()
	default:
		return fmt.Errorf("%w: a frame %q", errProtocol, f.Kind)
	}
	return nil
}

// filled takes a slot back that the machine has filled; the caller holds mu.
func (c *call) filled(body []byte) error {
	if len(body) != 8 {
		return fmt.Errorf("%w: a slot of %d bytes", errProtocol, len(body))
	}
	slot, n := binary.BigEndian.Uint32(body), binary.BigEndian.Uint32(body[4:])
	if !c.lent[slot] || n > wire.SlotSize {
		return fmt.Errorf("%w: it fills a slot that it does not have", errProtocol)
	}
	if c.left {
		return nil // it stays lent until the call ends, and comes back then
	}
	delete(c.lent, slot)
	at := int(slot) * wire.SlotSize
	c.data = append(c.data, chunk{bytes: c.ch.slots[at : at+int(n)], slot: slot})
	return nil
}

// tell wakes the reader; the caller holds mu.
func (c *call) tell() {
	select {
	case c.news <- struct{}{}:
	default:
	}
}

func (c *call) finish(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.done {
		c.done, c.err = true, err
	}
	c.tell()
}

// begin sends a request.
func (ch *channel) begin(op string, q any) (*call, error) {
	body, err := json.Marshal(q)
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	request, err := json.Marshal(wire.Request{Op: op, Body: body})
	if err != nil {
		return nil, fmt.Errorf("write request: %w", err)
	}
	clear(body) // it may hold a key
	defer clear(request)
	if len(request) > wire.MaxRequest {
		return nil, fmt.Errorf("a request of %d bytes is too long", len(request))
	}
	ch.mu.Lock()
	if ch.err != nil {
		ch.mu.Unlock()
		return nil, ch.err
	}
	if len(ch.calls) >= wire.MaxCalls {
		ch.mu.Unlock()
		return nil, backstay.Errorf(backstay.CodeMachineFailed, "the small machine has %d calls to answer already", wire.MaxCalls).Do("wait until some have ended")
	}
	ch.last++
	c := &call{ch: ch, id: ch.last, lent: map[uint32]bool{}, news: make(chan struct{}, 1)}
	ch.calls[c.id] = c
	ch.mu.Unlock()
	if err := ch.send(wire.Parts(c.id, wire.FrameRequest, request)...); err != nil {
		return nil, err
	}
	return c, nil
}

func (ch *channel) send(frames ...wire.Frame) error {
	for _, f := range frames {
		if err := ch.sendOne(f); err != nil {
			ch.end(err)
			return err
		}
	}
	return nil
}

func (ch *channel) sendOne(f wire.Frame) error {
	ch.write.Lock()
	defer ch.write.Unlock()
	if err := ch.conn.SetWriteDeadline(time.Now().Add(writeLimit)); err != nil {
		return err
	}
	return wire.WriteFrame(ch.conn, f)
}

// leave gives a call up, and asks the machine to end it.
func (c *call) leave() {
	c.mu.Lock()
	left, done := c.left, c.done
	c.left = true
	var back []uint32
	for _, chunk := range c.data {
		if !chunk.own {
			back = append(back, chunk.slot)
		}
	}
	c.data = nil
	c.mu.Unlock()
	c.ch.mu.Lock()
	c.ch.free = append(c.ch.free, back...)
	c.ch.mu.Unlock()
	if !left && !done {
		// That it cannot be sent ends the channel, which whoever calls next is told.
		_ = c.ch.send(wire.Frame{Call: c.id, Kind: wire.FrameCancel})
	}
}

// lend lets the machine fill slots, or send data if there is no slot.
func (c *call) lend() error {
	c.ch.mu.Lock()
	n := min(wire.CallSlots, len(c.ch.free))
	slots := slices.Clone(c.ch.free[len(c.ch.free)-n:])
	c.ch.free = c.ch.free[:len(c.ch.free)-n]
	c.ch.mu.Unlock()
	if n == 0 {
		return c.grant(wire.Window)
	}
	return c.lendThese(slots)
}

func (c *call) lendThese(slots []uint32) error {
	c.mu.Lock()
	if c.done || c.left {
		c.mu.Unlock()
		c.ch.mu.Lock()
		defer c.ch.mu.Unlock()
		c.ch.free = append(c.ch.free, slots...)
		return nil
	}
	var body []byte
	for _, slot := range slots {
		c.lent[slot] = true
		body = binary.BigEndian.AppendUint32(body, slot)
	}
	c.mu.Unlock()
	return c.ch.send(wire.Frame{Call: c.id, Kind: wire.FrameLend, Body: body})
}

func (c *call) grant(n int) error {
	return c.ch.send(wire.Frame{Call: c.id, Kind: wire.FrameCredit, Body: binary.BigEndian.AppendUint32(nil, uint32(n))})
}

// sleep waits for news of a call. Without any for too long the machine hangs, and
// is ended.
func (c *call) sleep(ctx context.Context) error {
	timer := time.NewTimer(c.ch.limit)
	defer timer.Stop()
	select {
	case <-c.news:
		return nil
	case <-ctx.Done():
		c.leave()
		return ctx.Err()
	case <-timer.C:
		c.ch.end(fmt.Errorf("%w: a call was not answered within %v", errSilent, c.ch.limit))
		return nil // the end is news
	}
}

// pulse asks the machine for a sign of life while calls are open, and ends it if
// none comes.
func (ch *channel) pulse(every, limit time.Duration) {
	ticker := time.NewTicker(every)
	defer ticker.Stop()
	for {
		select {
		case <-ch.ended:
			return
		case <-ticker.C:
		}
		ch.mu.Lock()
		idle := len(ch.calls) == 0
		ch.mu.Unlock()
		if idle {
			continue
		}
		ctx, cancel := context.WithTimeout(context.Background(), limit)
		_, err := ask[struct{}](ctx, ch, wire.OpPing, struct{}{})
		cancel()
		if errors.Is(err, context.DeadlineExceeded) {
			ch.end(fmt.Errorf("%w: no sign of life within %v", errSilent, limit))
		}
	}
}

// ask makes a call and waits for its answer.
func ask[R any](ctx context.Context, ch *channel, op string, q any) (R, error) {
	var r R
	c, err := ch.begin(op, q)
	if err != nil {
		return r, err
	}
	for {
		c.mu.Lock()
		done, answer, err := c.done, c.answer, c.err
		c.mu.Unlock()
		if done && err == nil {
			if err = decode(answer, &r); err != nil {
				err = fmt.Errorf("%w: %w", errProtocol, err)
			}
		}
		if done {
			return r, err
		}
		if err := c.sleep(ctx); err != nil {
			return r, err
		}
	}
}
