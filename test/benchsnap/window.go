package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"time"
)

// window is what the writer in a guest saw while something was done; see the
// sandbox's ticker.
type window struct {
	Seconds, PerSecond, WorstMs float64
	Writes                      int
	Histogram                   map[string]int
}

// The writer is left alone for a while before and after, and what it sees in the
// first and last moments does not count: there it is started and ended.
const (
	trim   = 250 * time.Millisecond
	settle = trim + 250*time.Millisecond
)

// watch does something while a guest writes 4 KiB durably every 5 ms on each of
// its first two disks.
func (b *bench) watch(ctx context.Context, vm string, do func(context.Context) error) (window, error) {
	var w window
	_, err := b.guest(ctx, vm, "(setsid ticker -json -trim %d /var/log/tick /data/tick 600 >/tmp/tick 2>&1 &)", trim.Milliseconds())
	if err != nil {
		return w, err
	}
	time.Sleep(settle)
	err = do(ctx)
	time.Sleep(settle)
	said, guestErr := b.guest(context.WithoutCancel(ctx), vm, "kill $(pidof ticker); while pidof ticker >/dev/null; do sleep 0.02; done; cat /tmp/tick")
	if err := errors.Join(err, guestErr); err != nil {
		return w, err
	}
	if err := json.Unmarshal([]byte(said), &w); err != nil {
		return w, fmt.Errorf("the ticker said %q: %w", said, err)
	}
	return w, nil
}

// stall records the worst stall, in milliseconds, that a guest saw while something
// was done, and how many writes it could do in a second.
func (b *bench) stall(ctx context.Context, name, vm string, do func(context.Context) error) (window, error) {
	w, err := b.watch(ctx, vm, do)
	if err != nil {
		return w, fmt.Errorf("%s: %w", name, err)
	}
	for bound, n := range w.Histogram {
		if err := b.figures.Add(name+"/up to "+bound+" ms", float64(n)); err != nil {
			return w, err
		}
	}
	return w, errors.Join(b.record(name+"/stall", w.WorstMs), b.figures.Add(name+"/writes", w.PerSecond))
}

// sleep is what happens to the idle guest.
func sleep(d time.Duration) func(context.Context) error {
	return func(ctx context.Context) error {
		select {
		case <-ctx.Done():
			return ctx.Err()
		case <-time.After(d):
			return nil
		}
	}
}
