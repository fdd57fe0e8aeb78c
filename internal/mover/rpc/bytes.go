package rpc

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"time"
)

// pieceSize is how many bytes of a stream follow one line, at most, but for what
// is written in one piece.
const pieceSize = 128 << 10

// maxPiece is the most bytes that may follow one line.
const maxPiece = 16 << 20

// streaming serves a method whose result is bytes.
func streaming[Q any](s *side, method string, fn func(context.Context, Q, io.Writer) error) {
	serveMethod(s, method, func(ctx context.Context, c *serverCall, request Q) (any, error) {
		out := bufio.NewWriterSize(pieces{c}, pieceSize)
		if err := fn(ctx, request, out); err != nil {
			return nil, err
		}
		return none{}, out.Flush()
	})
}

// pieces sends what is written to it as bytes of a call.
type pieces struct{ call *serverCall }

// Write waits until the client has room for the bytes.
func (w pieces) Write(p []byte) (int, error) {
	written := 0
	for written < len(p) {
		n := min(len(p)-written, maxPiece)
		if err := w.call.sendBytes(p[written : written+n]); err != nil {
			return written, err
		}
		written += n
	}
	return written, nil
}

// sendBytes sends a piece of a stream. A client that takes its time is none that is
// gone: its signs of life tell. Only once the call has ended for another reason the
// client must take the rest of the piece in time.
func (c *serverCall) sendBytes(p []byte) error {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.ctx.Err() != nil {
		return context.Cause(c.ctx)
	}
	c.bulk = true
	err := c.rc.SetWriteDeadline(time.Time{})
	hurry := context.AfterFunc(c.ctx, func() { _ = c.rc.SetWriteDeadline(later(c.side.tm.silence)) })
	defer hurry()
	if err == nil {
		err = c.out.Encode(answer{Bytes: int64(len(p))})
	}
	if err == nil {
		_, err = c.raw.Write(p)
	}
	if err == nil {
		err = c.rc.Flush()
	}
	if err != nil {
		c.cancel(errGone)
		return fmt.Errorf("%w: %w", errGone, err)
	}
	return nil
}

// stream makes a call whose result is bytes, which go to w.
func (c *Client) stream(ctx context.Context, method string, request any, w io.Writer) error {
	_, err := c.exchange(ctx, method, request, heard{progress: func(json.RawMessage) error { return nil }, bytes: w})
	return err
}

// pass passes n bytes on to w. Once ctx has ended they are read and forgotten: the
// host's last word is behind them.
func (c *Client) pass(ctx context.Context, in *bufio.Reader, n int64, w io.Writer, watchdog *time.Timer) error {
	if n < 0 || n > maxPiece || w == nil {
		return c.away(fmt.Errorf("it sent %d bytes that nobody asked for", n))
	}
	buf := make([]byte, min(n, pieceSize))
	for n > 0 {
		part := buf[:min(n, int64(len(buf)))]
		watchdog.Reset(c.tm.silence)
		if _, err := io.ReadFull(in, part); err != nil {
			return c.away(errCut)
		}
		watchdog.Stop()
		n -= int64(len(part))
		if ctx.Err() != nil {
			continue
		}
		if _, err := w.Write(part); err != nil {
			return fmt.Errorf("pass on what the host sent: %w", err)
		}
	}
	return nil
}
