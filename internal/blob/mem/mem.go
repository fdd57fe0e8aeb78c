// Package mem is a storage unit in memory, for tests. It keeps nothing.
package mem

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"

	"github.com/backstay/backstay/internal/blob"
)

// Store holds objects in memory. The zero value is not usable; call New.
type Store struct {
	mu      sync.Mutex
	objects map[string][]byte // guarded by mu; the slices are never changed
}

// New returns an empty store.
func New() *Store { return &Store{objects: map[string][]byte{}} }

// Put keeps a copy of data under a name that must be free.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	if _, ok := s.objects[name]; ok {
		return fmt.Errorf("put %s: %w", name, blob.ErrExist)
	}
	s.objects[name] = slices.Clone(data)
	return nil
}

// Get returns a range of an object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if err := blob.CheckName(name); err != nil {
		return nil, err
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	s.mu.Lock()
	data, ok := s.objects[name]
	s.mu.Unlock()
	if !ok {
		return nil, fmt.Errorf("get %s: %w", name, blob.ErrNotExist)
	}
	from, to, err := blob.CheckRange(int64(len(data)), offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s: %w", name, err)
	}
	return slices.Clone(data[from:to]), nil
}

// Stat describes an object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := blob.CheckName(name); err != nil {
		return blob.Info{}, err
	}
	if err := ctx.Err(); err != nil {
		return blob.Info{}, err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	data, ok := s.objects[name]
	if !ok {
		return blob.Info{}, fmt.Errorf("stat %s: %w", name, blob.ErrNotExist)
	}
	return blob.Info{Name: name, Size: int64(len(data))}, nil
}

// List calls fn for the objects that start with prefix, in order of name.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	s.mu.Lock()
	var found []blob.Info
	for name, data := range s.objects {
		if strings.HasPrefix(name, prefix) {
			found = append(found, blob.Info{Name: name, Size: int64(len(data))})
		}
	}
	s.mu.Unlock()
	slices.SortFunc(found, func(a, b blob.Info) int { return strings.Compare(a.Name, b.Name) })
	for _, info := range found {
		if err := ctx.Err(); err != nil {
			return err
		}
		if err := fn(info); err != nil {
			return err
		}
	}
	return nil
}

// Delete removes an object.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := blob.CheckName(name); err != nil {
		return err
	}
	if err := ctx.Err(); err != nil {
		return err
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	delete(s.objects, name)
	return nil
}

// Replace sets an object's bytes, whatever was there: how a test plants damage.
func (s *Store) Replace(name string, data []byte) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.objects[name] = slices.Clone(data)
}
