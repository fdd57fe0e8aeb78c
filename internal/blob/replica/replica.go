// Package replica makes one store of several: every object has a copy in each.
//
// The first copy is the arbiter. Put goes to it first, so of two writers of one
// name one wins there, and only the winner writes the other copies. A Put that
// fails half-way takes back what it wrote, as far as it can; what a crash leaves
// in only some copies is completed when the same bytes are put again.
// Get answers from the first copy that can, and asks one that could not be read a
// short while ago last; List names what any copy holds,
// so a lost or damaged copy hides nothing.
//
// It compares no content on reading: whoever can tell a damaged copy from a
// sound one reads the copies one by one (blob.Copies).
package replica

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	"github.com/backstay/backstay/internal/blob"
)

// Store is several stores as one.
type Store struct {
	copies []blob.Store
	now    func() time.Time

	mu    sync.Mutex
	until []time.Time // of each copy, until when it is read last; guarded by mu
}

// rest is for how long a copy that failed is read last. Then one read tries it.
const rest = time.Minute

// New returns a store with a copy of every object in each of the given ones,
// of which there is at least one. The order must stay the same for ever: the
// first decides who wins a name.
func New(copies ...blob.Store) *Store {
	return &Store{copies: slices.Clone(copies), now: time.Now, until: make([]time.Time, len(copies))}
}

// ReadOrder implements blob.Preferring.
func (s *Store) ReadOrder() []int {
	s.mu.Lock()
	defer s.mu.Unlock()
	now := s.now()
	var first, last []int
	for i, until := range s.until {
		switch {
		case until.IsZero():
			first = append(first, i)
		case now.Before(until):
			last = append(last, i)
		default:
			s.until[i] = now.Add(rest) // this caller tries it, and the next ones do not wait for that
			first = append(first, i)
		}
	}
	return append(first, last...)
}

// ReadEnded implements blob.Preferring. Only that a copy could not be read says
// something of it; that it lacks an object, or that the caller left, does not.
func (s *Store) ReadEnded(copy int, err error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	switch {
	case err == nil || errors.Is(err, blob.ErrNotExist):
		s.until[copy] = time.Time{}
	case errors.Is(err, blob.ErrAway):
		s.until[copy] = s.now().Add(rest)
	}
}

// Copies returns the copies in their order.
func (s *Store) Copies() []blob.Store { return slices.Clone(s.copies) }

// Name returns what a copy is called in errors.
func (s *Store) name(ctx context.Context, i int) string {
	if d, ok := s.copies[i].(blob.Describer); ok {
		if place, err := d.Describe(ctx); err == nil {
			return place.URL
		}
	}
	return fmt.Sprintf("copy %d", i+1)
}

// Put returns when the object is durable in all copies. Putting the bytes that
// are there already in the arbiter, but not in all copies, completes them and
// is no error; if all copies have the object it is ErrExist.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	first, err := s.putOne(ctx, 0, name, data)
	if err != nil {
		return err
	}
	fresh := make([]bool, len(s.copies))
	errs := make([]error, len(s.copies))
	fresh[0] = first
	var wg sync.WaitGroup
	for i := 1; i < len(s.copies); i++ {
		wg.Go(func() { fresh[i], errs[i] = s.putOne(ctx, i, name, data) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		if first {
			s.takeBack(ctx, name, fresh)
		}
		return err
	}
	if !slices.Contains(fresh, true) {
		return fmt.Errorf("put %s: %w", name, blob.ErrExist)
	}
	return nil
}

// putOne writes one copy and tells whether it was missing. The same bytes there
// already are no error; other bytes are ErrExist.
func (s *Store) putOne(ctx context.Context, i int, name string, data []byte) (bool, error) {
	err := s.copies[i].Put(ctx, name, data)
	if err == nil {
		return true, nil
	}
	if !errors.Is(err, blob.ErrExist) {
		return false, fmt.Errorf("%s: %w", s.name(ctx, i), err)
	}
	there, getErr := s.copies[i].Get(ctx, name, 0, -1)
	if getErr != nil {
		return false, fmt.Errorf("%s: %w", s.name(ctx, i), getErr)
	}
	if !bytes.Equal(there, data) {
		return false, fmt.Errorf("%s: other content: %w", s.name(ctx, i), err)
	}
	return false, nil
}

// takeBack removes what a failed Put wrote. Nobody was told of the object yet.
// It goes on when the caller was cancelled, and what it cannot remove stays.
func (s *Store) takeBack(ctx context.Context, name string, fresh []bool) {
	ctx = context.WithoutCancel(ctx)
	for i := len(s.copies) - 1; i >= 0; i-- { // the arbiter last, so nobody can win meanwhile
		if fresh[i] {
			_ = s.copies[i].Delete(ctx, name)
		}
	}
}

// Get answers from the first copy that can. ErrNotExist only if no copy has the
// object and every copy said so (I5).
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	var data []byte
	err := s.first(ctx, func(c blob.Store) (err error) {
		data, err = c.Get(ctx, name, offset, length)
		return err
	})
	return data, err
}

// Stat answers from the first copy that has the object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	var info blob.Info
	err := s.first(ctx, func(c blob.Store) (err error) {
		info, err = c.Stat(ctx, name)
		return err
	})
	return info, err
}

// first calls fn for one copy after the other until one succeeds. Of several
// errors one that says less of the object comes first: away before absent.
func (s *Store) first(ctx context.Context, fn func(blob.Store) error) error {
	var absent, other []error
	for _, i := range s.ReadOrder() {
		err := fn(s.copies[i])
		if ctx.Err() == nil {
			s.ReadEnded(i, err)
		}
		switch {
		case err == nil:
			return nil
		case errors.Is(err, blob.ErrNotExist):
			absent = append(absent, err)
		default:
			other = append(other, fmt.Errorf("%s: %w", s.name(ctx, i), err))
		}
	}
	if len(other) > 0 {
		return errors.Join(other...)
	}
	return absent[0]
}

// List names every object that any copy has, with its largest size. A copy that
// cannot be listed is left out as long as another one can: since a Put returns
// only when all copies have the object, each complete listing of one copy names
// all that is committed.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	found := map[string]int64{}
	var errs []error
	for i, c := range s.copies {
		err := c.List(ctx, prefix, func(info blob.Info) error {
			found[info.Name] = max(found[info.Name], info.Size)
			return nil
		})
		if err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name(ctx, i), err))
		}
	}
	if len(errs) == len(s.copies) {
		return errors.Join(errs...)
	}
	names := make([]string, 0, len(found))
	for name := range found {
		names = append(names, name)
	}
	slices.SortFunc(names, strings.Compare)
	for _, name := range names {
		if err := fn(blob.Info{Name: name, Size: found[name]}); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Delete removes the object from every copy, the arbiter last, and fails if one
// of them fails.
func (s *Store) Delete(ctx context.Context, name string) error {
	var errs []error
	for i := len(s.copies) - 1; i >= 0; i-- {
		if err := s.copies[i].Delete(ctx, name); err != nil {
			errs = append(errs, fmt.Errorf("%s: %w", s.name(ctx, i), err))
		}
	}
	return errors.Join(errs...)
}

// Describe joins what the copies say; Available is that of the fullest.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	all := blob.Place{Available: -1}
	for i, c := range s.copies {
		d, ok := c.(blob.Describer)
		if !ok {
			continue
		}
		place, err := d.Describe(ctx)
		if err != nil {
			return blob.Place{}, err
		}
		if i > 0 {
			all.URL, all.Device = all.URL+" ", all.Device+" "
		}
		all.URL, all.Device = all.URL+place.URL, all.Device+place.Device
		if all.Available < 0 || place.Available >= 0 && place.Available < all.Available {
			all.Available = place.Available
		}
	}
	return all, nil
}

// Requests implements blob.Counter: the sum over the copies that count theirs.
func (s *Store) Requests() int64 {
	var sum int64
	for _, c := range s.copies {
		if counter, ok := c.(blob.Counter); ok {
			sum += counter.Requests()
		}
	}
	return sum
}
