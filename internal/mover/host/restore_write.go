package host

import (
	"context"
	"fmt"
	"runtime"
	"slices"
	"sync"

	"golang.org/x/sync/errgroup"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

const (
	disksAtOnce = 2       // disks written or verified at a time
	readBlock   = 1 << 20 // bytes of one read; a multiple of content.Step
)

// workers is how many goroutines decode, write or compare one disk.
func workers() int { return max(2, runtime.GOMAXPROCS(0)) }

// vaultSource restores by writing the content of a vault's point.
type vaultSource struct {
	*Host
	open func(context.Context, backstay.DiskTarget) (tier.Image, error)
	end  func() error // lets go of the vault; may be nil

	mu      sync.Mutex
	wrong   []string            // copies that were damaged; guarded by mu
	unnamed int                 // further ones; guarded by mu
	copies  []mover.DamagedCopy // guarded by mu
}

// toldCopies is how many damaged copies a restore tells the server of.
const toldCopies = 1000

// namedCopies is how many damaged copies a restore names.
const namedCopies = 20

// damaged notes a copy that could not be used.
func (s *vaultSource) damaged(object, unit string) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if c := (mover.DamagedCopy{Object: object, Unit: unit}); len(s.copies) < toldCopies && !slices.Contains(s.copies, c) {
		s.copies = append(s.copies, c)
	}
	text := fmt.Sprintf("the copy of %s in %s is damaged; another copy was used", object, unit)
	switch {
	case slices.Contains(s.wrong, text):
	case len(s.wrong) < namedCopies:
		s.wrong = append(s.wrong, text)
	default:
		s.unnamed++
	}
}

// warnings say for people which copies were damaged.
func (s *vaultSource) warnings() []string {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.wrong) == 0 {
		return nil
	}
	all := slices.Clone(s.wrong)
	slices.Sort(all)
	if s.unnamed > 0 {
		all = append(all, "further copies in the vault are damaged")
	}
	all[len(all)-1] += "; a repair is queued, and `backstay vault verify` finds whatever else there is"
	return all
}

// told are the damaged copies that the server is told of.
func (s *vaultSource) told() []mover.DamagedCopy {
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.copies)
}

func (s *vaultSource) close() {
	if s.end == nil {
		return
	}
	if err := s.end(); err != nil {
		s.log.Warn("a vault could not be closed", "error", err)
	}
}

// write writes all disks, then reads all back from the files and compares them
// with what the vault authenticated (I4, I8). It goes on from what the journal
// says; without one it begins anew, and the caller has made sure that what lies at
// the paths may go.
func (s *vaultSource) write(ctx context.Context, r mover.StageRequest, j *restoreJournal, progress mover.Progress) (mover.Staged, error) {
	// Each chunk is authenticated, so a cache of a unit far away is as good as the unit.
	ctx = blob.AllowCached(ctx)
	if j == nil {
		j = &restoreJournal{Job: r.Job}
	}
	if err := j.begin(r.Plan); err != nil {
		return mover.Staged{}, err
	}
	disks, err := s.disks(ctx, r, j)
	defer func() {
		for _, d := range disks {
			_ = d.image.Close()
		}
	}()
	if err != nil {
		return mover.Staged{}, err
	}
	for _, step := range []struct {
		phase string
		run   func(*writtenDisk, context.Context, func(int64)) error
		done  func(*writtenDisk) int64 // by an earlier life
	}{{"write", (*writtenDisk).write, (*writtenDisk).written}, {"verify", (*writtenDisk).verify, (*writtenDisk).verified}} {
		m := &meter{phase: step.phase, progress: progress}
		for _, d := range disks {
			m.total += d.data
			m.done += min(step.done(d), d.data)
		}
		m.add(0)
		g, ctx := errgroup.WithContext(ctx)
		g.SetLimit(disksAtOnce)
		for _, d := range disks {
			g.Go(func() error {
				if err := step.run(d, ctx, m.add); err != nil {
					return fmt.Errorf("%s disk %s: %w", step.phase, d.plan.Target, err)
				}
				return nil
			})
		}
		if err := g.Wait(); err != nil {
			return mover.Staged{}, err
		}
	}
	staged := mover.Staged{Warnings: s.warnings(), Damaged: s.told()}
	for _, d := range disks {
		staged.BytesRead += d.data
		staged.BytesWritten += d.progress.Wrote
		staged.Paths = append(staged.Paths, d.plan.Path)
	}
	return staged, nil
}

// disks opens the disks of the point. On error those that were opened are
// returned all the same.
func (s *vaultSource) disks(ctx context.Context, r mover.StageRequest, j *restoreJournal) (disks []*writtenDisk, err error) {
	for _, p := range r.Plan.Disks {
		image, err := s.open(ctx, p.Target)
		if err != nil {
			return disks, err
		}
		d := &writtenDisk{images: s.images, log: s.log, plan: p, image: image, journal: j, progress: j.disk(p.Target)}
		disks = append(disks, d)
		if d.data, err = d.check(ctx); err != nil {
			return disks, fmt.Errorf("disk %s: %w", p.Target, err)
		}
		if err := d.prepare(ctx); err != nil {
			return disks, fmt.Errorf("disk %s: %w", p.Target, err)
		}
	}
	return disks, nil
}

// meter adds up the bytes of one phase.
type meter struct {
	phase    string
	total    int64
	progress mover.Progress

	mu   sync.Mutex
	done int64 // guarded by mu
}

// add adds bytes that are done.
func (m *meter) add(n int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.done = min(m.done+n, m.total)
	m.progress(mover.Report{Phase: m.phase, Done: m.done, Total: m.total})
}

// expect adds bytes that are to be done: total is guarded by mu from then on.
func (m *meter) expect(n int64) {
	m.mu.Lock()
	m.total += n
	m.mu.Unlock()
	m.add(0)
}
