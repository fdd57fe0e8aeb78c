package catalogtest

import (
	"errors"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// drills: records are numbered and chained in the order in which they come, each drill
// has one, and plans come and go.
func drills(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	zone := time.FixedZone("elsewhere", 3600)
	for _, id := range []backstay.DrillID{"01A", "01B", "01C", "01B"} {
		r := backstay.DrillRecord{ID: id, Verdict: backstay.DrillPassed, Started: at.In(zone), VMs: []backstay.DrilledVM{{Name: "web01"}}, Hash: "a lie", Previous: "another"}
		kept, err := c.Drills.AppendDrill(ctx, r)
		must(t, err)
		read, err := c.Drills.Drill(ctx, id)
		must(t, err)
		same(t, kept.Hash, read.Hash)
	}
	list, err := c.Drills.ListDrills(ctx, 2)
	must(t, err)
	same(t, []backstay.DrillID{list[0].ID, list[1].ID}, []backstay.DrillID{"01C", "01B"})
	list, err = c.Drills.ListDrills(ctx, 0)
	must(t, err)
	same(t, len(list), 3)
	slices.Reverse(list)
	if seq, how := backstay.CheckDrills(list); seq != 0 {
		t.Errorf("the chain is broken at %d: %s", seq, how)
	}
	for name, tamper := range map[string]func([]backstay.DrillRecord) []backstay.DrillRecord{
		"changed": func(l []backstay.DrillRecord) []backstay.DrillRecord { l[1].Verdict = backstay.DrillFailed; return l },
		"removed": func(l []backstay.DrillRecord) []backstay.DrillRecord { return slices.Delete(l, 1, 2) },
	} {
		if seq, _ := backstay.CheckDrills(tamper(slices.Clone(list))); seq != 2 {
			t.Errorf("a record that was %s is noticed at %d", name, seq)
		}
	}
	_, err = c.Drills.Drill(ctx, "01Z")
	if !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a drill that was not: %v", err)
	}
	plan := backstay.DrillPlan{Name: "shop", VMs: []backstay.DrillVM{{VM: "db01"}, {VM: "web01"}}}
	must(t, c.DrillPlans.CreateDrillPlan(ctx, plan))
	if err := c.DrillPlans.CreateDrillPlan(ctx, plan); !errors.Is(err, catalog.ErrExists) {
		t.Errorf("a plan was made twice: %v", err)
	}
	must(t, c.DrillPlans.ChangeDrillPlan(ctx, "shop", func(p *backstay.DrillPlan) error { p.MaxCPUs = 2; return nil }))
	plan.MaxCPUs = 2
	got, err := c.DrillPlans.DrillPlan(ctx, "shop")
	must(t, err)
	same(t, got, plan)
	plans, err := c.DrillPlans.ListDrillPlans(ctx)
	must(t, err)
	same(t, plans, []backstay.DrillPlan{plan})
	must(t, c.DrillPlans.DeleteDrillPlan(ctx, "shop"))
	if err := c.DrillPlans.DeleteDrillPlan(ctx, "shop"); !errors.Is(err, catalog.ErrNotFound) {
		t.Errorf("a plan was deleted twice: %v", err)
	}
}
