package inside

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// server answers the calls that come over a channel, several at a time.
type server struct {
	ops map[string]operation // fixed before serve

	write sync.Mutex // held while one frame is written
	port  io.ReadWriter
	slots []byte // the memory that the client sees too; nil if there is none

	mu    sync.Mutex
	calls map[uint32]*call // guarded by mu
	work  sync.WaitGroup
}

// operation answers one call; what it returns as an error is sent.
type operation func(ctx context.Context, c *call, body []byte) error

// call is one call that is being answered.
type call struct {
	s      *server
	id     uint32
	parts  []byte // of its request; owned by serve
	cancel context.CancelFunc

	mu     sync.Mutex
	credit int           // bytes of data that may be sent; guarded by mu
	lent   []uint32      // slots that may be filled; guarded by mu
	more   chan struct{} // tells that credit or a slot has come
}

func newServer(port io.ReadWriter) *server {
	s := &server{ops: map[string]operation{}, port: port, calls: map[uint32]*call{}}
	handle(s, wire.OpPing, func(context.Context, struct{}) (struct{}, error) { return struct{}{}, nil })
	return s
}

// handle answers an operation with one value.
func handle[Q, R any](s *server, op string, fn func(context.Context, Q) (R, error)) {
	s.ops[op] = func(ctx context.Context, c *call, body []byte) error {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		r, err := fn(ctx, q)
		if err != nil {
			return err
		}
		answer, err := json.Marshal(r)
		if err != nil {
			return fmt.Errorf("write answer: %w", err)
		}
		if len(answer) > wire.MaxAnswer {
			return fmt.Errorf("the answer has %d bytes, which is too much", len(answer))
		}
		return s.send(wire.Parts(c.id, wire.FrameAnswer, answer)...)
	}
}

// handleStream answers an operation with bytes. A write blocks while the reader
// is behind, and fails when it has gone; an error of fn after some bytes reaches the
// reader after them. The writer gathers small writes, and is an io.ReaderFrom that
// reads into the memory that the client sees: io.Copy from a file is the quickest.
func handleStream[Q any](s *server, op string, fn func(context.Context, Q, io.Writer) error) {
	s.ops[op] = func(ctx context.Context, c *call, body []byte) error {
		var q Q
		if err := json.Unmarshal(body, &q); err != nil {
			return fmt.Errorf("read request: %w", err)
		}
		w := &streamWriter{ctx: ctx, c: c}
		err := fn(ctx, q, w)
		if err := errors.Join(err, w.flush()); err != nil {
			return err
		}
		return s.send(wire.Frame{Call: c.id, Kind: wire.FrameEnd})
	}
}

// serve answers until the channel is closed.
func (s *server) serve() error {
	ctx, cancel := context.WithCancel(context.Background())
	defer cancel()
	hello, err := json.Marshal(wire.Hello{Version: wire.Version})
	if err != nil {
		return err
	}
	if err := s.send(wire.Frame{Kind: wire.FrameReady, Body: hello}); err != nil {
		return err
	}
	in := bufio.NewReaderSize(s.port, 64<<10)
	for {
		f, err := wire.ReadFrame(in)
		if errors.Is(err, io.EOF) {
			return nil
		}
		if err != nil {
			return err
		}
		if err := s.take(ctx, f); err != nil {
			return err
		}
	}
}

// take does what a frame asks for. An error means that the client cannot be
// understood.
func (s *server) take(ctx context.Context, f wire.Frame) error {
	switch f.Kind {
	case wire.FramePart, wire.FrameRequest:
		return s.request(ctx, f)
	case wire.FrameCancel:
		if c := s.call(f.Call); c != nil && c.cancel != nil {
			c.cancel()
		}
	case wire.FrameCredit:
		if c := s.call(f.Call); c != nil && len(f.Body) == 4 {
			c.grant(int(binary.BigEndian.Uint32(f.Body)), nil)
		}
	case wire.FrameLend:
		return s.lend(f)
	default:
		return fmt.Errorf("unexpected frame %q", f.Kind)
	}
	return nil
}

// request collects the parts of a request and starts to answer it.
func (s *server) request(ctx context.Context, f wire.Frame) error {
	s.mu.Lock()
	c := s.calls[f.Call]
	if c == nil {
		if len(s.calls) >= wire.MaxCalls {
			s.mu.Unlock()
			return s.fail(f.Call, errors.New("too many calls at a time"))
		}
		c = &call{s: s, id: f.Call, more: make(chan struct{}, 1)}
		s.calls[f.Call] = c
	}
	s.mu.Unlock()
	if len(c.parts)+len(f.Body) > wire.MaxRequest {
		return fmt.Errorf("request %d is too long", f.Call)
	}
	c.parts = append(c.parts, f.Body...)
	if f.Kind == wire.FramePart {
		return nil
	}
	if c.cancel != nil {
		return fmt.Errorf("call %d was begun twice", f.Call)
	}
	var q wire.Request
	if err := json.Unmarshal(c.parts, &q); err != nil {
		return fmt.Errorf("read request: %w", err)
	}
	clear(c.parts) // it may hold a key
	c.parts = nil
	callCtx, cancel := context.WithCancel(ctx)
	c.cancel = cancel
	s.work.Go(func() {
		defer cancel()
		s.answer(callCtx, c, q)
	})
	return nil
}

func (s *server) answer(ctx context.Context, c *call, q wire.Request) {
	op, ok := s.ops[q.Op]
	err := error(backstay.Errorf(backstay.CodeInternal, "the small machine knows no %q", q.Op))
	if ok {
		err = op(ctx, c, q.Body)
	}
	// The call is forgotten first: the client may use its number again at once.
	s.mu.Lock()
	delete(s.calls, c.id)
	s.mu.Unlock()
	if err != nil {
		// An error of the channel is met by serve too.
		_ = s.fail(c.id, err)
	}
}

func (s *server) fail(id uint32, err error) error {
	body, failed := json.Marshal(wire.ErrorOf(err))
	if failed != nil {
		return failed
	}
	return s.send(wire.Frame{Call: id, Kind: wire.FrameError, Body: body})
}

func (s *server) send(frames ...wire.Frame) error {
	for _, f := range frames {
		if err := s.sendOne(f); err != nil {
			return err
		}
	}
	return nil
}

func (s *server) sendOne(f wire.Frame) error {
	s.write.Lock()
	defer s.write.Unlock()
	return wire.WriteFrame(s.port, f)
}

func (s *server) call(id uint32) *call {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.calls[id]
}
