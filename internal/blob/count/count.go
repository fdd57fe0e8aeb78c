// Package count wraps a blob.Store and counts its requests, which is what an
// object store is paid by. It changes nothing else.
package count

import (
	"context"
	"errors"
	"sync/atomic"

	"github.com/backstay/backstay/internal/blob"
)

// Store counts the requests to another store.
type Store struct {
	blob.Store
	requests atomic.Int64
}

// Wrap returns s with a count that begins at 0.
func Wrap(s blob.Store) *Store { return &Store{Store: s} }

// Requests implements blob.Counter: the calls so far, failed ones included.
func (s *Store) Requests() int64 { return s.requests.Load() }

// Put implements blob.Store.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	s.requests.Add(1)
	return s.Store.Put(ctx, name, data)
}

// Get implements blob.Store.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	s.requests.Add(1)
	return s.Store.Get(ctx, name, offset, length)
}

// Stat implements blob.Store.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	s.requests.Add(1)
	return s.Store.Stat(ctx, name)
}

// List implements blob.Store. However many objects it lists, it counts as one.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	s.requests.Add(1)
	return s.Store.List(ctx, prefix, fn)
}

// Delete implements blob.Store.
func (s *Store) Delete(ctx context.Context, name string) error {
	s.requests.Add(1)
	return s.Store.Delete(ctx, name)
}

// Describe implements blob.Describer where the wrapped store does.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	d, ok := s.Store.(blob.Describer)
	if !ok {
		return blob.Place{}, errors.New("the storage unit does not describe itself")
	}
	return d.Describe(ctx)
}
