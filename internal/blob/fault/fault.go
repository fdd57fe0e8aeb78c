// Package fault wraps a store with planned faults, for tests and stories: a put
// that fails, an object that is changed on its way, a store that fills up. Every
// fault counts how often it was hit, because a planted fault that nobody hit
// proves nothing.
package fault

import (
	"context"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/blob"
)

// Kind is what goes wrong.
type Kind string

// The kinds of fault.
const (
	Fail     Kind = "fail"      // the call returns Err (or blob.ErrAway) and does nothing
	FailLate Kind = "fail-late" // a put is done, and yet returns Err (or blob.ErrAway)
	Corrupt  Kind = "corrupt"   // one byte is changed on the way in
	Cut      Kind = "cut"       // the last half never arrives, and nobody says so
	Slow     Kind = "slow"      // the call waits for Delay first
	ReadOnly Kind = "read-only" // the call returns blob.ErrReadOnly
	Full     Kind = "full"      // the call returns blob.ErrFull

	// What stores and networks do that do not keep to the contract, or just about.
	Broken   Kind = "broken"    // a connection cut in the middle: a get gives half and blob.ErrAway, a listing its first half and blob.ErrAway; a put does nothing
	Replaces Kind = "replaces"  // a put ignores that the name is taken
	LeaveOut Kind = "leave-out" // a listing leaves out the objects with Name, and says nothing
	Stale    Kind = "stale"     // a listing leaves out all that was put through this store
)

// Call is the kind of call a fault is for; the empty Call means puts.
type Call string

// The calls that can be made to fail.
const (
	Put    Call = "put"
	Get    Call = "get"
	List   Call = "list"
	Stat   Call = "stat"
	Delete Call = "delete"
)

// Fault is one planned fault. The zero Nth means every matching call, 1 the
// first one; with Onwards every later one as well.
type Fault struct {
	Kind    Kind
	Call    Call   // empty: puts
	Prefix  string // of object names; of a listing's prefix
	Name    string // for LeaveOut: a part of the names that are left out
	Nth     int
	Onwards bool
	Delay   time.Duration
	Err     error

	mu   sync.Mutex
	seen int // guarded by mu
	hits int // guarded by mu
}

// Hits returns how often the fault was hit.
func (f *Fault) Hits() int {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.hits
}

func (f *Fault) match(call Call, name string) bool {
	want := f.Call
	if want == "" {
		want = Put
	}
	if call != want || !strings.HasPrefix(name, f.Prefix) {
		return false
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.seen++
	hit := f.Nth == 0 || f.seen == f.Nth || f.Onwards && f.seen > f.Nth
	if hit {
		f.hits++
	}
	return hit
}

func (f *Fault) err(name string) error {
	cause := f.Err
	switch {
	case cause != nil:
	case f.Kind == ReadOnly:
		cause = blob.ErrReadOnly
	case f.Kind == Full:
		cause = blob.ErrFull
	default:
		cause = blob.ErrAway
	}
	return fmt.Errorf("planned fault (%s) at %s: %w", f.Kind, name, cause)
}

// Store is a store with planned faults.
type Store struct {
	below  blob.Store
	faults []*Fault

	mu    sync.Mutex
	puts  int             // guarded by mu
	fresh map[string]bool // what was put through this store; guarded by mu
}

// Wrap returns below with the faults, which are tried in the given order.
func Wrap(below blob.Store, faults ...*Fault) *Store {
	return &Store{below: below, faults: faults, fresh: map[string]bool{}}
}

// Unhit returns the faults that were never hit.
func (s *Store) Unhit() []*Fault {
	return slices.DeleteFunc(slices.Clone(s.faults), func(f *Fault) bool { return f.Hits() > 0 })
}

// Puts returns how many puts were asked for.
func (s *Store) Puts() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return s.puts
}

// before applies the faults that end a call at once, and waits for slow ones.
// It returns those which change what is put.
func (s *Store) before(ctx context.Context, call Call, name string) ([]*Fault, error) {
	var later []*Fault
	for _, f := range s.faults {
		if !f.match(call, name) {
			continue
		}
		switch f.Kind {
		case Slow:
			select {
			case <-time.After(f.Delay):
			case <-ctx.Done():
				return nil, ctx.Err()
			}
		case Corrupt, Cut, FailLate, Replaces, LeaveOut, Stale:
			later = append(later, f)
		case Broken:
			if call != Get && call != List {
				return nil, f.err(name)
			}
			later = append(later, f)
		default:
			return nil, f.err(name)
		}
	}
	return later, nil
}

// change returns data as the faults make it.
func change(faults []*Fault, data []byte) []byte {
	for _, f := range faults {
		switch {
		case f.Kind == Corrupt && len(data) > 0:
			data = slices.Clone(data)
			data[len(data)/2] ^= 0x40
		case f.Kind == Cut:
			data = data[:len(data)/2]
		}
	}
	return data
}

// Put puts, or does what the faults say.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	s.mu.Lock()
	s.puts++
	s.mu.Unlock()
	later, err := s.before(ctx, Put, name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(later, func(f *Fault) bool { return f.Kind == Replaces }) {
		if err := s.below.Delete(ctx, name); err != nil {
			return err
		}
	}
	if err := s.below.Put(ctx, name, change(later, data)); err != nil {
		return err
	}
	s.mu.Lock()
	s.fresh[name] = true
	s.mu.Unlock()
	for _, f := range later {
		if f.Kind == FailLate {
			return f.err(name)
		}
	}
	return nil
}

// Get gets, or does what the faults say.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	later, err := s.before(ctx, Get, name)
	if err != nil {
		return nil, err
	}
	data, err := s.below.Get(ctx, name, offset, length)
	if err != nil {
		return nil, err
	}
	for _, f := range later {
		if f.Kind == Broken {
			return data[:len(data)/2], f.err(name)
		}
	}
	return change(later, data), nil
}

// Stat describes, or does what the faults say.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if _, err := s.before(ctx, Stat, name); err != nil {
		return blob.Info{}, err
	}
	return s.below.Stat(ctx, name)
}

// List lists, or does what the faults say.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	later, err := s.before(ctx, List, prefix)
	if err != nil {
		return err
	}
	if len(later) == 0 {
		return s.below.List(ctx, prefix, fn)
	}
	var all []blob.Info
	if err := s.below.List(ctx, prefix, func(i blob.Info) error { all = append(all, i); return nil }); err != nil {
		return err
	}
	all, err = s.lie(later, prefix, all)
	for _, i := range all {
		if err := fn(i); err != nil {
			return err
		}
	}
	return err
}

// lie returns a listing as the faults make it.
func (s *Store) lie(faults []*Fault, prefix string, all []blob.Info) ([]blob.Info, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, f := range faults {
		switch f.Kind {
		case LeaveOut:
			all = slices.DeleteFunc(all, func(i blob.Info) bool { return strings.Contains(i.Name, f.Name) })
		case Stale:
			all = slices.DeleteFunc(all, func(i blob.Info) bool { return s.fresh[i.Name] })
		case Cut:
			all = all[:len(all)/2]
		case Broken:
			return all[:len(all)/2], f.err(prefix)
		}
	}
	return all, nil
}

// Delete deletes, or does what the faults say.
func (s *Store) Delete(ctx context.Context, name string) error {
	if _, err := s.before(ctx, Delete, name); err != nil {
		return err
	}
	return s.below.Delete(ctx, name)
}

// Describe passes the question on.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := s.below.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{Available: -1}, nil
}

// Copies passes the question on: the copies themselves have no faults.
func (s *Store) Copies() []blob.Store {
	if c, ok := s.below.(blob.Copies); ok {
		return c.Copies()
	}
	return []blob.Store{s}
}
