package verify

import (
	"context"
	"sync"
	"time"
)

// pacer holds reading to a rate.
type pacer struct {
	rate int64 // bytes a second; 0 for no bound
	now  func() time.Time

	mu    sync.Mutex
	ahead time.Time // until when the bytes so far should take; guarded by mu
}

// wait waits until so many more bytes may be read.
func (p *pacer) wait(ctx context.Context, bytes int) error {
	if p.rate <= 0 {
		return nil
	}
	now := p.now()
	p.mu.Lock()
	if p.ahead.Before(now) {
		p.ahead = now
	}
	p.ahead = p.ahead.Add(time.Duration(float64(bytes) / float64(p.rate) * float64(time.Second)))
	pause := p.ahead.Sub(now)
	p.mu.Unlock()
	timer := time.NewTimer(pause)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}
