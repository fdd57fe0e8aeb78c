package mover

import (
	"context"
	"sync"

	backstay "github.com/backstay/backstay"
)

// Phases runs one long call as several steps of a job. The call reports the
// phase that it is in; step i is running until the call reports a later phase
// of names, and the last one until it returns. Bytes go to the job's progress,
// and every report to each (which may be nil).
//
// In a later life of the job the call is made again from the start, under the
// first step that had not succeeded.
func Phases[T any](ctx context.Context, run backstay.Run, names []string, call func(context.Context, Progress) (T, error), each Progress) (T, error) {
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	p := &phases{names: names, wake: make(chan struct{})}
	var result T
	var callErr error
	done := make(chan struct{})
	go func() {
		defer close(done)
		result, callErr = call(ctx, func(r Report) {
			p.reached(r.Phase)
			run.Progress(r.Done, r.Total)
			if each != nil {
				each(r)
			}
		})
	}()
	for i, name := range names {
		last := i == len(names)-1
		err := run.Step(ctx, name, func(context.Context) error {
			if last {
				<-done
				return callErr
			}
			if p.waitBehind(i, done) {
				return callErr
			}
			return nil
		})
		if err != nil {
			stop()
			<-done
			return result, err
		}
	}
	<-done
	return result, callErr
}

// phases knows how far a call has come.
type phases struct {
	names []string
	mu    sync.Mutex
	at    int           // guarded by mu: index of the phase last reported
	wake  chan struct{} // guarded by mu: closed and replaced when at grows
}

func (p *phases) reached(name string) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for i, n := range p.names {
		if n == name && i > p.at {
			p.at = i
			close(p.wake)
			p.wake = make(chan struct{})
		}
	}
}

// waitBehind waits until the call is behind phase i; it returns true if the
// call ended first.
func (p *phases) waitBehind(i int, done <-chan struct{}) bool {
	for {
		p.mu.Lock()
		at, wake := p.at, p.wake
		p.mu.Unlock()
		if at > i {
			return false
		}
		select {
		case <-wake:
		case <-done:
			return true
		}
	}
}
