package client

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// silence is how long a stream may say nothing before it counts as broken. The
// server sends a comment every quarter of a minute.
const silence = 50 * time.Second

// patience is how long Follow goes on trying to reach a server that is away: a
// server that restarts takes its jobs up again.
const patience = 2 * time.Minute

// errSilent is why a stream was given up that said nothing.
var errSilent = errors.New("the stream of events fell silent")

// Follow calls fn with the job as it stands and after each change, and returns
// the job once it ended. A connection that breaks is made anew for up to two
// minutes. When ctx ends Follow returns the job as last seen and ctx's cause;
// the job itself goes on. fn may be nil.
func (c *Client) Follow(ctx context.Context, id backstay.JobID, fn func(backstay.Job)) (backstay.Job, error) {
	var last backstay.Job
	pause, away := c.pause, time.Duration(0)
	for {
		seen := false
		err := c.stream(ctx, id, func(job backstay.Job) {
			last, seen = job, true
			if fn != nil {
				fn(job)
			}
		})
		if last.State.Ended() {
			return last, nil
		}
		if ctx.Err() != nil {
			return last, context.Cause(ctx)
		}
		if err != nil && !backstay.IsCode(err, backstay.CodeServerAway) {
			return last, err
		}
		if seen {
			pause, away = c.pause, 0
		}
		if away >= patience {
			return last, err
		}
		select {
		case <-ctx.Done():
			return last, context.Cause(ctx)
		case <-time.After(pause):
		}
		away += pause
		pause = min(2*pause, 10*time.Second)
	}
}

// Wait waits for a job to end and returns it, however it ended.
func (c *Client) Wait(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return c.Follow(ctx, id, nil)
}

// stream reads one connection's events. It returns nil when the server ended
// the stream.
func (c *Client) stream(ctx context.Context, id backstay.JobID, fn func(backstay.Job)) error {
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	resp, err := c.send(ctx, http.MethodGet, api.Path(api.PathJobEvents, string(id)), nil, "text/event-stream")
	if err != nil {
		return err
	}
	defer resp.Body.Close()
	watchdog := time.AfterFunc(silence, func() { cancel(errSilent) })
	defer watchdog.Stop()
	lines := bufio.NewScanner(resp.Body)
	lines.Buffer(nil, 8<<20)
	event, data := "", ""
	for lines.Scan() {
		watchdog.Reset(silence)
		line := lines.Text()
		switch {
		case line == "" && event == api.JobEvent:
			var job backstay.Job
			if err := json.Unmarshal([]byte(data), &job); err != nil {
				return fmt.Errorf("decode event of job %s: %w", id, err)
			}
			fn(job)
			event, data = "", ""
		case line == "":
			event, data = "", ""
		case strings.HasPrefix(line, "event: "):
			event = strings.TrimPrefix(line, "event: ")
		case strings.HasPrefix(line, "data: "):
			data += strings.TrimPrefix(line, "data: ")
		}
	}
	if errors.Is(context.Cause(ctx), errSilent) {
		return backstay.Errorf(backstay.CodeServerAway, "the server at %s does not answer", c.base).Because(errSilent)
	}
	if err := lines.Err(); err != nil {
		return c.broken(ctx, err)
	}
	return nil
}
