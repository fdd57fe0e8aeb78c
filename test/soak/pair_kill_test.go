//go:build integration

package soak

import (
	"fmt"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/internal/sandbox/link"
)

// many is more puts than any replication needs.
const many = 1_000_000

// TestARegionKilledAtAnyPutOffersOnlyWholePoints kills either server, both of them
// or the link before each put that a replication does in the pair: of headers, keys,
// packs, indexes, manifests and the chain, into each of the three units. After each
// the pair offers whole points only, and is given the rest once all is there again.
// In the end one of them boots there.
func TestARegionKilledAtAnyPutOffersOnlyWholePoints(t *testing.T) {
	l := newPairLab(t)
	holder := l.regions.Worlds[1]
	type pairCase struct {
		victim string
		put    int
	}
	// The first replication makes the replica; the second brings a point to it.
	puts := func() int {
		must(l.t, holder.HoldAfterPuts(many))
		l.replicated(l.take())
		left, err := holder.PutsLeft()
		must(l.t, err)
		return many - left
	}
	first, next := puts(), puts()
	t.Logf("the first replication puts %d objects, the next one %d", first, next)
	if next < 9 {
		t.Fatalf("a point came with %d puts: a pack, an index and a manifest in three copies are nine", next)
	}
	l.offered()
	var cases []pairCase
	for _, victim := range []string{west, east, "both", "cut", "pull"} {
		for put := range next {
			cases = append(cases, pairCase{victim, put})
		}
	}
	l.rng.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	if !whole {
		cases = cases[:2]
	}
	for _, c := range cases {
		t.Run(fmt.Sprintf("%s-before-put-%d", c.victim, c.put), func(t *testing.T) {
			outer := l.t
			l.t = t
			defer func() { l.t = outer }()
			must(t, holder.HoldAfterPuts(c.put))
			id := l.take()
			must(t, holder.AwaitFault(l.ctx, "hold-after-puts"))
			l.strike(c.victim)
			must(t, holder.LiftFault("hold-after-puts"))
			if c.victim == west {
				l.offered() // with the first region gone
			}
			l.mend()
			if there := l.offered(); len(there) < 2 {
				t.Errorf("east offers %d points, and had two before", len(there))
			}
			l.replicated(id)
			if !l.offered()[id] {
				t.Error("west says that the point is available in east, and east does not offer it")
			}
		})
	}
	l.boots()
}

// strike does to the regions what the victim's name says.
func (l *pairLab) strike(victim string) {
	l.t.Helper()
	switch victim {
	case "both":
		must(l.t, l.regions.Worlds[0].Kill(l.ctx, sandbox.Server, ""))
		must(l.t, l.regions.Worlds[1].Kill(l.ctx, sandbox.Server, ""))
	case "cut":
		must(l.t, l.regions.Link(l.ctx, link.Rules{Closed: true}))
	case "pull":
		must(l.t, l.regions.Unplug(l.ctx, east))
	default:
		w, err := l.regions.World(victim)
		must(l.t, err)
		must(l.t, w.Kill(l.ctx, sandbox.Server, ""))
	}
}

// boots restores the newest point in east, with west burnt, and starts it.
func (l *pairLab) boots() {
	l.t.Helper()
	must(l.t, l.regions.Burn(l.ctx, west))
	var job backstay.Job
	l.run(east, &job, "restore", "create-vm", vm+"@latest", "--name", "copy")
	if job.State != backstay.JobSucceeded {
		l.t.Errorf("the restore in east ended as %s: %v %v", job.State, job.Error, job.Warnings)
	}
	_, err := l.regions.Worlds[1].Guest(l.ctx, "", "copy", "true")
	must(l.t, err)
}
