package host

import (
	"slices"
	"sync"

	"github.com/backstay/backstay/internal/tier/content"
)

// stepSet is a set of a disk's steps. It takes memory only near its members.
// Its methods may be called concurrently.
type stepSet struct {
	mu    sync.Mutex
	pages map[int64]*[stepPage / 64]uint64 // guarded by mu
}

const stepPage = 1 << 16 // steps of a page of a stepSet: 256 MiB

// add puts [offset, offset+length) into the set; it begins on a step.
func (s *stepSet) add(offset, length int64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.pages == nil {
		s.pages = map[int64]*[stepPage / 64]uint64{}
	}
	for step := offset / content.Step; step*content.Step < offset+length; step++ {
		page := s.pages[step/stepPage]
		if page == nil {
			page = new([stepPage / 64]uint64)
			s.pages[step/stepPage] = page
		}
		page[step%stepPage/64] |= 1 << (step % 64)
	}
}

// has tells whether the step at an offset is in the set.
func (s *stepSet) has(offset int64) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	step := offset / content.Step
	page := s.pages[step/stepPage]
	return page != nil && page[step%stepPage/64]&(1<<(step%64)) != 0
}

// each calls fn for the runs of the set in order, until it fails. No run is longer
// than a page of the set.
func (s *stepSet) each(fn func(offset, length int64) error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	order := make([]int64, 0, len(s.pages))
	for i := range s.pages {
		order = append(order, i)
	}
	slices.Sort(order)
	for _, i := range order {
		page := s.pages[i]
		for at := int64(0); at < stepPage; {
			if page[at/64]&(1<<(at%64)) == 0 {
				at++
				continue
			}
			from := at
			for at < stepPage && page[at/64]&(1<<(at%64)) != 0 {
				at++
			}
			if err := fn((i*stepPage+from)*content.Step, (at-from)*content.Step); err != nil {
				return err
			}
		}
	}
	return nil
}
