package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// PutFiles is mover.Puts'.
func (c *Client) PutFiles(ctx context.Context, r mover.PutRequest, content io.ReadCloser, progress mover.Progress) (mover.PutReport, error) {
	var report mover.PutReport
	raw, err := c.send(ctx, "PutFiles", outgoing{request: r, content: content}, heard{progress: func(raw json.RawMessage) error {
		var p mover.Report
		if err := json.Unmarshal(raw, &p); err != nil {
			return fmt.Errorf("decode progress: %w", err)
		}
		if progress != nil {
			progress(p)
		}
		return nil
	}})
	if err != nil {
		return report, errors.Join(err, content.Close())
	}
	if err := json.Unmarshal(raw, &report); err != nil {
		return report, fmt.Errorf("decode result of PutFiles: %w", err)
	}
	return report, nil
}

// EndPut is mover.Puts'.
func (c *Client) EndPut(ctx context.Context, job backstay.JobID) (mover.PutReport, bool, error) {
	r, err := call[endedPutWire, none](ctx, c, "EndPut", job, nil)
	return r.Report, r.Complete, err
}

type endedPutWire struct {
	Report   mover.PutReport
	Complete bool
}

func registerPuts(s *side, m mover.Mover) {
	handleContent(s, "PutFiles", func(ctx context.Context, r mover.PutRequest, c io.ReadCloser, progress func(mover.Report)) (mover.PutReport, error) {
		return m.PutFiles(ctx, r, c, progress)
	})
	handle(s, "EndPut", func(ctx context.Context, job backstay.JobID, _ func(none)) (endedPutWire, error) {
		report, complete, err := m.EndPut(ctx, job)
		return endedPutWire{report, complete}, err
	})
}

// uploadPiece is how much content one line carries, in bytes.
const uploadPiece = 256 << 10

// upload sends a call's content behind its request, on the stream that the signs
// of life are on. The host's side takes a line when it has room for it.
type upload struct {
	mu  sync.Mutex
	err error // guarded by mu: why the content could not be read
}

func (u *upload) run(w io.Writer, content io.Reader) {
	out, buf := json.NewEncoder(w), make([]byte, uploadPiece)
	for {
		n, err := io.ReadFull(content, buf)
		if n > 0 && out.Encode(sign{Data: buf[:n]}) != nil {
			return // the call has ended
		}
		switch {
		case err == nil:
		case errors.Is(err, io.EOF), errors.Is(err, io.ErrUnexpectedEOF) && n > 0:
			_ = out.Encode(sign{End: true})
			return
		default:
			u.mu.Lock()
			u.err = err
			u.mu.Unlock()
			_ = out.Encode(sign{Cancel: true})
			return
		}
	}
}

// failure is why the content could not be read; nil if it could.
func (u *upload) failure() error {
	u.mu.Lock()
	defer u.mu.Unlock()
	return u.err
}

// handleContent is handle for a method that takes content behind its request.
func handleContent[Q, R any](s *side, method string, fn func(context.Context, Q, io.ReadCloser, func(mover.Report)) (R, error)) {
	s.mux.HandleFunc("POST "+pathPrefix+method, func(w http.ResponseWriter, r *http.Request) {
		c, ok := s.accept(method, w, r)
		if !ok {
			return
		}
		from := make(chan []byte)
		c.content, c.bulk = from, true
		var request Q
		if err := c.receive(&request); err != nil {
			http.Error(w, "the request cannot be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		c.run(func(ctx context.Context) (any, error) {
			return fn(ctx, request, &contentReader{call: c, from: from}, func(p mover.Report) { c.progress(p) })
		})
	})
}

// take passes on what a sign carries. A reader that is slow keeps the client
// waiting, which knows from the beats that the call goes on.
func (c *serverCall) take(s sign) {
	c.body.left = maxRequest // it bounds one line, not the content
	if s.End {
		close(c.content)
		c.content = nil
		return
	}
	if len(s.Data) == 0 {
		return
	}
	select {
	case c.content <- s.Data:
	case <-c.ended:
	case <-c.ctx.Done():
	}
}

// contentReader reads a call's content.
type contentReader struct {
	call *serverCall
	from chan []byte
	rest []byte
}

func (r *contentReader) Read(p []byte) (int, error) {
	for len(r.rest) == 0 {
		select {
		case data, ok := <-r.from:
			if !ok {
				return 0, io.EOF
			}
			r.rest = data
		case <-r.call.ctx.Done():
			return 0, context.Cause(r.call.ctx)
		}
	}
	n := copy(p, r.rest)
	r.rest = r.rest[n:]
	return n, nil
}

// Close implements io.Closer. What is left of the content ends with the call.
func (r *contentReader) Close() error { return nil }
