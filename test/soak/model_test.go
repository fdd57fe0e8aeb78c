//go:build integration

package soak

import (
	"fmt"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
)

// model is what must be there: points with the content that they were taken with,
// in order, and VMs that were restored from them.
type model struct {
	*lab
	points []modelPoint
	forks  map[string]backstay.PointID
	taken  int
}

type modelPoint struct {
	id      backstay.PointID
	content int64
}

// TestPointsThatComeAndGoAtRandomAreAsAModelSays takes, forks, restores and expires
// points of a running guest in random order. Each point holds what it held, each
// restored VM what its point held, the guest what it wrote, and no chain is ever
// deeper than its bound.
func TestPointsThatComeAndGoAtRandomAreAsAModelSays(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	m := &model{lab: l, forks: map[string]backstay.PointID{}}
	for m.taken < times(100, 12) {
		m.step()
	}
	for name := range m.forks {
		m.unfork(name)
	}
	m.forks = map[string]backstay.PointID{}
	for len(m.points) > 0 {
		m.expire(l.rng.IntN(len(m.points)))
	}
	// Ending the protection puts the VM back on its own files.
	_, err := l.client.Unprotect(l.ctx, vm, client.UnprotectOptions{DeleteData: true})
	must(t, err)
	l.quiet()
	l.guestHolds("after the protection ended")
	l.inOrder("after the protection ended")
	if chain := l.chain(plain); len(chain) != 2 || chain[1] != golden {
		t.Errorf("after the protection ended the chain is %v", chain)
	}
	if chain := l.chain(raw); len(chain) != 1 {
		t.Errorf("after the protection ended the chain is %v", chain)
	}
}

// step does something at random, and then looks at something at random.
func (m *model) step() {
	m.t.Helper()
	switch n := m.rng.IntN(10); {
	case n < 5 || len(m.points) == 0:
		m.take()
	case n < 7 && len(m.forks) < 3:
		m.fork(m.rng.IntN(len(m.points)))
	case n < 8 && len(m.forks) > 0:
		name := m.anyFork()
		m.t.Logf("restored VM %s goes", name)
		m.unfork(name)
		delete(m.forks, name)
	default:
		m.expire(m.rng.IntN(len(m.points)))
	}
	m.look()
}

func (m *model) anyFork() string {
	var names []string
	for name := range m.forks {
		names = append(names, name)
	}
	slices.Sort(names)
	return names[m.rng.IntN(len(names))]
}

// take takes a point. A chain that is full may lose points for it, the oldest first
// and none that is in use; if it cannot, the backup is refused.
func (m *model) take() {
	m.t.Helper()
	m.write()
	full := len(m.points) >= policy.Snapshot.MaxPoints()
	job := m.wait(m.start(backstay.SnapshotTier))
	if full && job.Error != nil && job.Error.Code == backstay.CodeTooDeep && len(m.forks) > 0 {
		m.t.Logf("refused: %v", job.Error)
		m.expireAny()
		return
	}
	if job.State != backstay.JobSucceeded && job.State != backstay.JobWarning || job.Point == "" {
		m.t.Fatalf("with %d points a backup ended as %s: %v", len(m.points), job.State, job.Error)
	}
	m.taken++
	m.points = append(m.points, modelPoint{job.Point, m.content})
	m.t.Logf("point %d is taken", m.taken)
	m.agree(full)
}

// agree compares the list of points with the model. Of a full chain points may
// have gone that nobody stands on.
func (m *model) agree(mayGo bool) {
	m.t.Helper()
	there := map[backstay.PointID]bool{}
	for _, p := range m.lab.points() {
		there[p.ID] = p.Has(backstay.SnapshotTier)
	}
	kept := m.points[:0]
	for _, p := range m.points {
		switch {
		case there[p.id]:
			kept = append(kept, p)
		case !mayGo:
			m.t.Errorf("point %s is gone", p.id)
		case m.stoodOn(p.id):
			m.t.Errorf("point %s is gone though a VM stands on it", p.id)
		}
		delete(there, p.id)
	}
	m.points = kept
	for id := range there {
		m.t.Errorf("there is a point %s that should be gone", id)
	}
}

func (m *model) stoodOn(id backstay.PointID) bool {
	for _, on := range m.forks {
		if on == id {
			return true
		}
	}
	return false
}

func (m *model) fork(i int) {
	m.t.Helper()
	name := fmt.Sprintf("fork%d", m.seq())
	m.lab.fork(m.points[i].id, backstay.SnapshotTier, name)
	m.forks[name] = m.points[i].id
	m.t.Logf("VM %s is restored from point %d of %d", name, i+1, len(m.points))
	for disk, want := range sumsOf(m.points[i].content) {
		got, err := m.host.VMSHA256(m.ctx, name, string(disk))
		must(m.t, err)
		if got != want {
			m.t.Errorf("disk %s of %s has SHA-256 %s, not %s", disk, name, got, want)
		}
	}
}

var forkSeq int

func (m *model) seq() int { forkSeq++; return forkSeq }

// expire drops a point. Only one on which, or on whose layers, a restored VM stands
// may be refused.
func (m *model) expire(i int) {
	m.t.Helper()
	p := m.points[i]
	job, err := m.client.DeletePoint(m.ctx, string(p.id))
	must(m.t, err)
	if job = m.wait(job); job.State == backstay.JobSucceeded {
		m.t.Logf("point %d of %d is dropped", i+1, len(m.points))
		m.points = slices.Delete(m.points, i, i+1)
	} else if job.Error == nil || job.Error.Code != backstay.CodeLayerInUse || len(m.forks) == 0 {
		m.t.Fatalf("dropping point %d of %d with %d restored VMs ended as %s: %v", i+1, len(m.points), len(m.forks), job.State, job.Error)
	}
	m.agree(false)
}

// expireAny makes room where restored VMs hold a chain.
func (m *model) expireAny() {
	m.t.Helper()
	name := m.anyFork()
	m.unfork(name)
	delete(m.forks, name)
}

// look checks the depth, and one point or restored VM.
func (m *model) look() {
	m.t.Helper()
	for disk, below := range map[backstay.DiskTarget]int{plain: 2, raw: 1} {
		if n := len(m.chain(disk)) - below; n > policy.Snapshot.MaxPoints() {
			m.t.Errorf("disk %s has %d layers, and the bound is %d", disk, n, policy.Snapshot.MaxPoints())
		}
	}
	if len(m.points) > 0 {
		p := m.points[m.rng.IntN(len(m.points))]
		m.holds(fmt.Sprintf("point %s", p.id), m.verify(p.id, backstay.SnapshotTier), sumsOf(p.content))
	}
}
