// Package retry wraps a store so that a request which the network or a busy server
// spoilt is made again, a few times and with growing pauses.
//
// Only what is blob.ErrAway without blob.ErrDenied is tried again: an answer of
// the store, such as "read-only" or "no such object", is an answer. A store that
// stayed away to the last attempt is left alone for a while, in which every call
// fails at once, and gets one attempt a call then until it answers: so that a copy
// that hangs does not hold up the others.
package retry

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/blob"
)

// Options say how patient to be; the zero value is right.
type Options struct {
	Attempts int           // for each call; 0: 4
	First    time.Duration // the pause after the first attempt, half to one and a half times; 0: 250 ms
	Most     time.Duration // the longest pause; 0: 5 s. Each pause is four times the one before
	// Rest is for how long a store that stayed away is not asked; 0: 10 s.
	Rest time.Duration
	// Retriable tells what may be tried again; nil: Transient.
	Retriable func(error) bool
}

// Transient tells whether an error may be gone at the next attempt.
func Transient(err error) bool {
	return errors.Is(err, blob.ErrAway) && !errors.Is(err, blob.ErrDenied)
}

// Store tries again what another store could not do.
type Store struct {
	below blob.Store
	o     Options

	mu    sync.Mutex
	away  error     // why the last call gave up; nil if it did not; guarded by mu
	until time.Time // when it may be asked again; guarded by mu
}

// Wrap returns s with attempts.
func Wrap(s blob.Store, o Options) *Store {
	if o.Attempts <= 0 {
		o.Attempts = 4
	}
	if o.First <= 0 {
		o.First = 250 * time.Millisecond
	}
	if o.Most <= 0 {
		o.Most = 5 * time.Second
	}
	if o.Rest <= 0 {
		o.Rest = 10 * time.Second
	}
	if o.Retriable == nil {
		o.Retriable = Transient
	}
	return &Store{below: s, o: o}
}

// try calls fn until it succeeds, or says something that stays so.
func (s *Store) try(ctx context.Context, fn func() error) error {
	attempts, err := s.begin()
	for pause := s.o.First; err == nil; pause = min(4*pause, s.o.Most) {
		err = fn()
		attempts--
		switch {
		case err != nil && ctx.Err() != nil:
			return err // says nothing of the store
		case err == nil || !s.o.Retriable(err):
			s.end(nil)
			return err
		case attempts <= 0:
			s.end(err)
			return err
		}
		select {
		case <-time.After(pause/2 + rand.N(pause)):
			err = nil
		case <-ctx.Done():
		}
	}
	return err
}

// begin returns how many attempts a call has, or why it has none.
func (s *Store) begin() (int, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case s.away == nil:
		return s.o.Attempts, nil
	case time.Now().Before(s.until):
		return 0, fmt.Errorf("not asked again so soon: %w", s.away)
	}
	return 1, nil
}

// end notes whether the store answered.
func (s *Store) end(away error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.away, s.until = away, time.Now().Add(s.o.Rest)
}

// Put writes an object. An attempt whose answer was lost may have written it: if
// the next one finds the name taken, the bytes decide whether that was us. Two
// writers of the same bytes can therefore both be told that they won, and who
// needs a name as a lock writes something of his own into the object.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	unclear := false
	err := s.try(ctx, func() error {
		// Asked before it is sent again: a server that refuses a taken name may
		// close the connection under a large body, each time.
		if unclear {
			if _, err := s.below.Stat(ctx, name); err == nil {
				return s.compare(ctx, name, data)
			} else if !errors.Is(err, blob.ErrNotExist) {
				return err
			}
		}
		err := s.below.Put(ctx, name, data)
		if unclear && errors.Is(err, blob.ErrExist) {
			return s.compare(ctx, name, data)
		}
		unclear = unclear || err != nil && s.o.Retriable(err)
		return err
	})
	return err
}

// compare returns nil if an object holds these bytes, and ErrExist for others.
func (s *Store) compare(ctx context.Context, name string, data []byte) error {
	there, err := s.below.Get(ctx, name, 0, -1)
	if err == nil && !bytes.Equal(there, data) {
		err = fmt.Errorf("put %s: %w", name, blob.ErrExist)
	}
	return err
}

// Get reads a range of an object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	var data []byte
	err := s.try(ctx, func() (err error) {
		data, err = s.below.Get(ctx, name, offset, length)
		return err
	})
	if err != nil {
		return nil, err
	}
	return data, nil
}

// Stat describes an object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	var info blob.Info
	err := s.try(ctx, func() (err error) {
		info, err = s.below.Stat(ctx, name)
		return err
	})
	return info, err
}

// List lists. After a listing that broke it lists again, and goes on behind the
// last name that it gave: that is possible because names come in order, and what
// was put before List began is behind that name in every later listing, too.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	last := ""
	var own error
	err := s.try(ctx, func() error {
		err := s.below.List(ctx, prefix, func(info blob.Info) error {
			if info.Name <= last {
				return nil
			}
			last = info.Name
			own = fn(info)
			return own
		})
		if own != nil {
			return nil // the caller's error ends it, whatever it is
		}
		return err
	})
	if own != nil {
		return own
	}
	return err
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, name string) error {
	return s.try(ctx, func() error { return s.below.Delete(ctx, name) })
}

// Describe passes the question on.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := s.below.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{Available: -1}, nil
}
