package catalogtest

import (
	"context"
	"errors"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// together runs fn n times at once and waits.
func together(n int, fn func(i int)) {
	var all sync.WaitGroup
	for i := range n {
		all.Go(func() { fn(i) })
	}
	all.Wait()
}

func point(id backstay.PointID, vm backstay.VMID, taken time.Time) backstay.RecoveryPoint {
	return backstay.RecoveryPoint{ID: id, VM: backstay.VMRef{UUID: vm, Name: "web01", Host: "h1"}, Vault: "main", Time: taken,
		Tiers: []backstay.PointTier{{Tier: backstay.SnapshotTier, State: backstay.TierAvailable, Since: taken}},
		Disks: []backstay.PointDisk{{Target: "vda", Size: 1 << 33, Included: true}}}
}

func points(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	p := point("p1", "a", at)
	must(t, c.Points.PutPoint(ctx, p))
	gives(t, p)(c.Points.Point(ctx, "p1"))
	p.Pinned = true
	must(t, c.Points.PutPoint(ctx, p))
	gives(t, p)(c.Points.Point(ctx, "p1"))
	must(t, c.Points.DeletePoint(ctx, "p1"))
	must(t, c.Points.DeletePoint(ctx, "p1"))
	absent[backstay.RecoveryPoint](t)(c.Points.Point(ctx, "p1"))
	wantErr(t, c.Points.ChangePoint(ctx, "p1", func(*backstay.RecoveryPoint) error { return nil }), catalog.ErrNotFound)
}

func pointsOrder(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	old, young, other := point("p9", "a", at), point("p1", "a", at.Add(time.Minute)), point("p5", "b", at.Add(time.Second))
	for _, p := range []backstay.RecoveryPoint{young, other, old} {
		must(t, c.Points.PutPoint(ctx, p))
	}
	gives(t, []backstay.RecoveryPoint{old, young})(c.Points.ListPoints(ctx, "a"))
	gives(t, []backstay.RecoveryPoint{old, other, young})(c.Points.ListPoints(ctx, ""))
	gives(t, []backstay.RecoveryPoint{})(c.Points.ListPoints(ctx, "c"))
}

func changePoint(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	must(t, c.Points.PutPoint(ctx, point("p1", "a", at)))
	const n = 20
	together(n, func(int) {
		check(t, c.Points.ChangePoint(ctx, "p1", func(p *backstay.RecoveryPoint) error { p.Disks[0].StoredBytes++; return nil }))
	})
	refused := errors.New("refused")
	wantErr(t, c.Points.ChangePoint(ctx, "p1", func(p *backstay.RecoveryPoint) error {
		p.Disks[0].StoredBytes = 0
		return refused
	}), refused)
	p, err := c.Points.Point(ctx, "p1")
	must(t, err)
	if p.Disks[0].StoredBytes != n {
		t.Errorf("%d changes are left of %d", p.Disks[0].StoredBytes, n)
	}
}
