package pair

import (
	"context"
	"io"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

// Limiter lets so many bytes a second through, of all that is read through it. The
// zero value, and nil, let everything through. All methods may be called concurrently.
type Limiter struct {
	Rate int64 // bytes a second; 0 for no bound

	mu   sync.Mutex
	free time.Time // guarded by mu: when the line is free again
}

// Reader returns r, read no faster than the limiter lets it. Waiting ends with ctx.
func (l *Limiter) Reader(ctx context.Context, r io.Reader) io.Reader {
	if l == nil || l.Rate <= 0 {
		return r
	}
	return &limited{ctx: ctx, limiter: l, below: r}
}

type limited struct {
	ctx     context.Context
	limiter *Limiter
	below   io.Reader
}

// Read reads a part that takes no longer than a second, and waits until it may be sent.
func (r *limited) Read(p []byte) (int, error) {
	most := min(int64(len(p)), max(1, r.limiter.Rate/4))
	n, err := r.below.Read(p[:most])
	if waited := r.limiter.wait(r.ctx, int64(n)); waited != nil {
		return 0, waited
	}
	return n, err
}

// wait takes the line for so many bytes, and returns when it is free for them.
func (l *Limiter) wait(ctx context.Context, bytes int64) error {
	l.mu.Lock()
	now := time.Now()
	begin := l.free
	if begin.Before(now) {
		begin = now
	}
	l.free = begin.Add(time.Duration(float64(bytes) / float64(l.Rate) * float64(time.Second)))
	l.mu.Unlock()
	if !begin.After(now) {
		return ctx.Err()
	}
	timer := time.NewTimer(begin.Sub(now))
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Throttle returns h, to which nothing is put faster than the limiter lets it.
func Throttle(h Holder, l *Limiter) Holder {
	if l == nil || l.Rate <= 0 {
		return h
	}
	return throttled{h, l}
}

type throttled struct {
	Holder
	limiter *Limiter
}

// Put implements Holder.
func (t throttled) Put(ctx context.Context, vault string, o Object, content io.Reader) error {
	return t.Holder.Put(ctx, vault, o, t.limiter.Reader(ctx, content))
}

// Complete implements Holder. A manifest goes over the line, too.
func (t throttled) Complete(ctx context.Context, vault string, point backstay.PointID, manifest []byte) error {
	if err := t.limiter.wait(ctx, int64(len(manifest))); err != nil {
		return err
	}
	return t.Holder.Complete(ctx, vault, point, manifest)
}
