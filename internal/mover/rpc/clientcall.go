package rpc

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net/http"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

var (
	errHostSilent = errors.New("the host gave no sign of life")
	errCut        = errors.New("the connection was cut before the call had ended")
	errGaveUp     = errors.New("the host did not end the cancelled call in time")
)

// heard takes what comes before a call's result.
type heard struct {
	progress func(json.RawMessage) error
	// bytes takes those that a call streams; nil if it streams none.
	bytes io.Writer
}

// exchange sends the request, passes on what is reported, and returns the
// result. When ctx ends it asks the host to cancel and waits, for a while, until
// the host has: only then nothing of the call goes on.
func (c *Client) exchange(ctx context.Context, method string, request any, heard heard) (json.RawMessage, error) {
	return c.send(ctx, method, outgoing{request: request}, heard)
}

// outgoing is what a call takes: its request, and for some a stream after that.
type outgoing struct {
	request any
	content io.ReadCloser // nil for most; closed with the call
}

func (c *Client) send(ctx context.Context, method string, o outgoing, heard heard) (json.RawMessage, error) {
	if err := ctx.Err(); err != nil {
		return nil, cancelled(ctx)
	}
	if !c.greeted.Load() {
		if err := c.Hello(ctx); err != nil {
			if ctx.Err() != nil {
				return nil, cancelled(ctx)
			}
			return nil, err
		}
	}
	first, err := json.Marshal(o.request)
	if err != nil {
		return nil, fmt.Errorf("encode request of %s: %w", method, err)
	}
	// The connection outlives ctx, for the cancel to travel on it.
	conn, cut := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cut(nil)
	reader, writer := io.Pipe()
	req, err := http.NewRequestWithContext(conn, http.MethodPost, c.base+pathPrefix+method,
		io.MultiReader(bytes.NewReader(append(first, '\n')), reader))
	if err != nil {
		return nil, fmt.Errorf("make request of %s: %w", method, err)
	}
	req.ContentLength = -1
	req.Header.Set(protocolHeader, protocolNumber())
	req.Header.Set("Content-Type", "application/x-ndjson")

	var helpers sync.WaitGroup
	defer helpers.Wait()
	ended := make(chan struct{})
	defer func() {
		close(ended)
		_ = reader.Close()
	}()
	helpers.Go(func() { c.signs(ctx, ended, writer, cut) })
	var up upload
	if o.content != nil {
		defer func() { _ = o.content.Close() }() // ends the read that upload may be in
		helpers.Go(func() { up.run(writer, o.content) })
	}

	watchdog := time.AfterFunc(c.tm.silence, func() { cut(errHostSilent) })
	defer watchdog.Stop()
	raw, err := c.receive(ctx, req, watchdog, heard)
	if broken := up.failure(); broken != nil && err != nil {
		return nil, broken
	}
	return raw, c.explain(ctx, conn, err)
}

// signs sends beats until the call has ended, and the wish to cancel once ctx has.
func (c *Client) signs(ctx context.Context, ended <-chan struct{}, w *io.PipeWriter, cut context.CancelCauseFunc) {
	defer func() { _ = w.Close() }()
	ticker := time.NewTicker(c.tm.beat)
	defer ticker.Stop()
	give := ctx.Done()
	var grace <-chan time.Time
	out := json.NewEncoder(w)
	for {
		var s sign
		select {
		case <-ended:
			return
		case <-grace:
			cut(errGaveUp)
			return
		case <-give:
			give, s.Cancel = nil, true
			timer := time.NewTimer(c.tm.grace)
			defer timer.Stop()
			grace = timer.C
		case <-ticker.C:
		}
		if out.Encode(s) != nil {
			return
		}
	}
}

// receive reads the answer's lines up to the last one.
func (c *Client) receive(ctx context.Context, req *http.Request, watchdog *time.Timer, heard heard) (json.RawMessage, error) {
	res, err := c.http.Do(req)
	if err != nil {
		return nil, c.away(err)
	}
	defer func() { _ = res.Body.Close() }()
	if res.StatusCode != http.StatusOK {
		return nil, c.refused(res)
	}
	in := bufio.NewReaderSize(res.Body, lineBuffer)
	for {
		a, err := readAnswer(in)
		if err != nil {
			return nil, c.away(err)
		}
		watchdog.Stop() // what progress takes is not the host's silence
		switch {
		case a.Error != nil:
			return nil, a.Error
		case a.Result != nil:
			return a.Result, nil
		case a.Progress != nil:
			if err := heard.progress(a.Progress); err != nil {
				return nil, err
			}
		case a.Bytes != 0:
			if err := c.pass(ctx, in, a.Bytes, heard.bytes, watchdog); err != nil {
				return nil, err
			}
		}
		watchdog.Reset(c.tm.silence)
	}
}

// lineBuffer is how much of an answer is read at once, in bytes.
const lineBuffer = 64 << 10

func readAnswer(in *bufio.Reader) (a answer, err error) {
	line, err := in.ReadBytes('\n')
	if err == nil {
		err = json.Unmarshal(line, &a)
	}
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		err = errCut
	}
	return a, err
}

func (c *Client) refused(res *http.Response) error {
	c.greeted.Store(false)
	text, _ := io.ReadAll(io.LimitReader(res.Body, 1024))
	why := strings.TrimSpace(string(text))
	switch res.StatusCode {
	case http.StatusConflict:
		return backstay.Errorf(backstay.CodeHostAway, "the mover on the host is of another version of backstay").
			Becausef("%s", why).Do("install the same version of backstay on the server and on the host")
	case http.StatusNotFound:
		return backstay.Errorf(backstay.CodeHostAway, "the mover on the host does not know %s", res.Request.URL.Path).
			Becausef("it is of another version of backstay").Do("install the same version of backstay on the server and on the host")
	default:
		return backstay.Errorf(backstay.CodeInternal, "the mover refused a call").Becausef("HTTP status %d: %s", res.StatusCode, why)
	}
}

// explain says why a call failed when it was not the host that said so.
func (c *Client) explain(ctx, conn context.Context, err error) error {
	switch {
	case err == nil:
		return nil
	case ctx.Err() != nil && (backstay.IsCode(err, backstay.CodeCancelled) || context.Cause(conn) == errGaveUp):
		return cancelled(ctx)
	case context.Cause(conn) != nil && backstay.IsCode(err, backstay.CodeHostAway):
		return c.away(context.Cause(conn))
	default:
		return err
	}
}

// cancelled is the error of a call that its caller ended; it wraps the reason
// and ctx's own error.
func cancelled(ctx context.Context) error {
	cause := ctx.Err()
	if why := context.Cause(ctx); why != nil && !errors.Is(why, cause) {
		cause = fmt.Errorf("%w (%w)", why, cause)
	}
	return backstay.Errorf(backstay.CodeCancelled, "the call was cancelled").Because(cause)
}
