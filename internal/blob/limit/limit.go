// Package limit wraps a store so that it is used with restraint: no more than so
// many bytes a second, and no more than so many requests at once. It is for lines
// and servers that others need as well, and changes no answer.
package limit

import (
	"context"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/blob"
)

// Options are the limits; 0 means none.
type Options struct {
	Rate     int64 // bytes a second, of puts and gets together
	Requests int   // at once; listings do not count
}

// Store keeps to limits.
type Store struct {
	below blob.Store
	o     Options
	slots chan struct{}

	mu   sync.Mutex
	free time.Time // when the line is free again; guarded by mu
}

// Wrap returns s with the limits.
func Wrap(s blob.Store, o Options) *Store {
	l := &Store{below: s, o: o}
	if o.Requests > 0 {
		l.slots = make(chan struct{}, o.Requests)
	}
	return l
}

// enter waits for a slot and returns what gives it back.
func (s *Store) enter(ctx context.Context) (func(), error) {
	if s.slots == nil {
		return func() {}, ctx.Err()
	}
	select {
	case s.slots <- struct{}{}:
		return func() { <-s.slots }, nil
	case <-ctx.Done():
		return nil, context.Cause(ctx)
	}
}

// line waits until the line is free, and takes it for so many bytes.
func (s *Store) line(ctx context.Context, bytes int64) error {
	if s.o.Rate <= 0 || bytes <= 0 {
		return ctx.Err()
	}
	s.mu.Lock()
	now := time.Now()
	begin := s.free
	if begin.Before(now) {
		begin = now
	}
	s.free = begin.Add(time.Duration(float64(bytes) / float64(s.o.Rate) * float64(time.Second)))
	s.mu.Unlock()
	select {
	case <-time.After(begin.Sub(now)):
		return ctx.Err()
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// Put writes an object when its turn has come.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	if err := s.line(ctx, int64(len(data))); err != nil {
		return err
	}
	return s.below.Put(ctx, name, data)
}

// Get reads a range when its turn has come. How many bytes it has is known
// afterwards only, so the next one pays for them.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return nil, err
	}
	defer leave()
	if err := s.line(ctx, 1); err != nil {
		return nil, err
	}
	data, err := s.below.Get(ctx, name, offset, length)
	s.spend(int64(len(data)))
	return data, err
}

// spend takes the line for bytes that went over it already.
func (s *Store) spend(bytes int64) {
	if s.o.Rate <= 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	s.free = s.free.Add(time.Duration(float64(bytes) / float64(s.o.Rate) * float64(time.Second)))
}

// Stat describes an object when its turn has come.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	leave, err := s.enter(ctx)
	if err != nil {
		return blob.Info{}, err
	}
	defer leave()
	return s.below.Stat(ctx, name)
}

// List lists. It holds no slot, because fn may make requests of its own.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return s.below.List(ctx, prefix, fn)
}

// Delete removes an object when its turn has come.
func (s *Store) Delete(ctx context.Context, name string) error {
	leave, err := s.enter(ctx)
	if err != nil {
		return err
	}
	defer leave()
	return s.below.Delete(ctx, name)
}

// Describe passes the question on.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := s.below.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{Available: -1}, nil
}
