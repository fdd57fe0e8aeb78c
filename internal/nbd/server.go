package nbd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"sync"
	"syscall"
	"time"
)

// The bounds on what a client may have of us. One connection holds at most
// connBudget bytes of content, whatever it asks for.
const (
	maxConnections  = 32
	maxRequest      = 32 << 20 // bytes of one read or write; announced
	maxOptionData   = 64 << 10
	maxOptions      = 256 // of one handshake
	requestsAtOnce  = 16  // of one connection
	connBudget      = 32 << 20
	pieceBytes      = 1 << 20 // bytes of one chunk of a structured reply
	smallRead       = 64 << 10
	firstWindow     = 1 << 20 // bytes of the first step of a block status
	lastWindow      = 256 << 20
	maxStatusRuns   = 8192
	handshakeTime   = 30 * time.Second
	farewellTime    = 5 * time.Second // for replies under way when the server ends
	acceptRetryTime = 100 * time.Millisecond
)

// Export is a disk that Serve offers. What it calls is called concurrently.
type Export struct {
	// Name is what clients ask for. The export that comes first is also served
	// to those who ask for the empty name.
	Name string
	// Description is for people; may be empty.
	Description string
	// Size is the size of the disk in bytes.
	Size int64
	// Content reads the disk. It is never asked for what lies behind Size.
	Content io.ReaderAt
	// Extents describes [offset, offset+length) completely, in order and without
	// gaps, with flags Hole and Zero, in a slice that Serve may change. nil: all is
	// data.
	Extents func(offset, length int64) ([]Extent, error)
	// Writer takes writes; nil: the export is read-only.
	Writer Writer
	// Failed is told of each request that Content, Extents or Writer could not
	// answer. The client is told as well, and the connection goes on. May be nil.
	Failed func(err error)
}

// Writer is the writable side of an Export. What returned before Flush was
// called is durable when Flush returns, whichever connection wrote it.
type Writer interface {
	io.WriterAt
	// WriteZeroes makes [offset, offset+length) read as zeros, as a hole if it can.
	WriteZeroes(offset, length int64) error
	Flush() error
}

// service is one run of Serve.
type service struct {
	exports []Export

	mu      sync.Mutex
	closing bool                  // guarded by mu
	conns   map[net.Conn]struct{} // guarded by mu
	work    sync.WaitGroup
}

// Serve offers exports to every client that connects, until ctx ends: then the
// listener is closed, requests under way are answered, and nil is returned when
// no goroutine is left. The content's own context must end with ctx, or a read
// that hangs keeps Serve waiting. An error means that nobody can connect any more.
func Serve(ctx context.Context, l net.Listener, exports ...Export) error {
	s := &service{exports: exports, conns: map[net.Conn]struct{}{}}
	if err := s.check(); err != nil {
		return errors.Join(err, l.Close())
	}
	failed := make(chan struct{})
	s.work.Go(func() {
		select {
		case <-ctx.Done():
		case <-failed:
		}
		_ = l.Close()
		s.farewell()
	})
	err := s.accept(ctx, l)
	close(failed)
	s.work.Wait()
	if ctx.Err() != nil {
		return nil
	}
	return fmt.Errorf("accept nbd client: %w", err)
}

func (s *service) check() error {
	if len(s.exports) == 0 {
		return errors.New("serve nbd: no export")
	}
	names := map[string]bool{}
	for _, e := range s.exports {
		if len(e.Name) > maxString || len(e.Description) > maxString || e.Size < 0 || e.Content == nil || names[e.Name] {
			return fmt.Errorf("serve nbd: export %q: name twice or too long, no content, or a size of %d bytes", clip(e.Name), e.Size)
		}
		names[e.Name] = true
	}
	return nil
}

// accept takes connections until the listener is closed.
func (s *service) accept(ctx context.Context, l net.Listener) error {
	for {
		conn, err := l.Accept()
		switch {
		case err == nil:
			s.begin(ctx, conn)
		case ctx.Err() != nil || !passing(err):
			return err
		default:
			select {
			case <-time.After(acceptRetryTime):
			case <-ctx.Done():
			}
		}
	}
}

// passing tells whether accepting may work again without anything being changed.
func passing(err error) bool {
	return errors.Is(err, syscall.EMFILE) || errors.Is(err, syscall.ENFILE) || errors.Is(err, syscall.ECONNABORTED)
}

// begin serves a connection, or closes it at once when there are too many.
func (s *service) begin(ctx context.Context, conn net.Conn) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.closing || len(s.conns) >= maxConnections {
		_ = conn.Close()
		return
	}
	s.conns[conn] = struct{}{}
	s.work.Go(func() {
		defer func() {
			_ = conn.Close()
			s.mu.Lock()
			delete(s.conns, conn)
			s.mu.Unlock()
		}()
		s.serve(ctx, conn)
	})
}

// farewell ends all connections when what they asked for has been answered. A
// client that does not take its answers is left after farewellTime.
func (s *service) farewell() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.closing = true
	for conn := range s.conns {
		_ = conn.SetReadDeadline(time.Unix(1, 0))
		_ = conn.SetWriteDeadline(time.Now().Add(farewellTime))
	}
}

// serve speaks with one client until it has had enough. What goes wrong is the
// client's business: it ends the connection.
func (s *service) serve(ctx context.Context, conn net.Conn) {
	c := newSession(s, conn)
	s.deadline(conn, time.Now().Add(handshakeTime))
	if err := c.negotiate(); err != nil || c.export == nil {
		return
	}
	s.deadline(conn, time.Time{})
	c.transmit(ctx)
}

// deadline bounds what is read and written, unless farewell already did.
func (s *service) deadline(conn net.Conn, at time.Time) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !s.closing {
		_ = conn.SetDeadline(at)
	}
}

// find returns the export of a name, or nil.
func (s *service) find(name string) *Export {
	for i := range s.exports {
		if s.exports[i].Name == name || name == "" && i == 0 {
			return &s.exports[i]
		}
	}
	return nil
}

// transmissionFlags say what an export can do.
func (e *Export) transmissionFlags(structured bool) uint16 {
	flags := uint16(transHasFlags | transMultiConn)
	if e.Writer == nil {
		flags |= transReadOnly
	} else {
		flags |= transFlush | transFUA | transWriteZeroes
	}
	if structured {
		flags |= transDF
	}
	return flags
}

// status describes a part of the export, from its start as far as is cheap: at
// least one run, at most maxStatusRuns, at most as long as asked.
func (e *Export) status(offset, length int64, one bool) ([]Extent, error) {
	if e.Extents == nil {
		return []Extent{{Offset: offset, Length: length}}, nil
	}
	var out []Extent
	for window := int64(firstWindow); length > 0; window = min(window*4, lastWindow) {
		step := min(window, length)
		runs, err := e.runs(offset, step)
		if err != nil {
			return nil, err
		}
		for _, r := range runs {
			out = appendRun(out, r)
		}
		if one && len(out) > 1 {
			return out[:1], nil
		}
		if len(out) > maxStatusRuns {
			return out[:maxStatusRuns], nil
		}
		offset, length = offset+step, length-step
	}
	return out, nil
}

// appendRun adds a run, joined with the one before if they are of one sort.
func appendRun(runs []Extent, r Extent) []Extent {
	if last := len(runs) - 1; last >= 0 && runs[last].Flags == r.Flags {
		runs[last].Length += r.Length
		return runs
	}
	return append(runs, r)
}

// runs calls Extents, sees that it keeps its word, and joins what can be joined.
func (e *Export) runs(offset, length int64) ([]Extent, error) {
	if e.Extents == nil {
		return []Extent{{Offset: offset, Length: length}}, nil
	}
	runs, err := e.Extents(offset, length)
	if err != nil {
		return nil, err
	}
	next := offset
	joined := runs[:0]
	for _, r := range runs {
		if r.Offset != next || r.Length <= 0 || r.Length > offset+length-next {
			return nil, fmt.Errorf("extents of [%d, +%d): run of %d bytes at %d", offset, length, r.Length, r.Offset)
		}
		next += r.Length
		joined = appendRun(joined, r)
	}
	if next != offset+length {
		return nil, fmt.Errorf("extents of [%d, +%d) end at %d", offset, length, next)
	}
	return joined, nil
}
