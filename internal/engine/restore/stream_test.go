package restore

import (
	"context"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// TestOnAnotherHostAPointIsStreamedIfAskedForOrInNoVault: whole disks are made, in
// the format that they have.
func TestOnAnotherHostAPointIsStreamedIfAskedForOrInNoVault(t *testing.T) {
	r, f := request(), facts()
	f.Host.Name = "west"
	for name, change := range map[string]func(){
		"asked for":   func() { r.Tier = backstay.SnapshotTier },
		"in no vault": func() { r.Tier = ""; f.Point.DropTier(backstay.VaultTier) },
	} {
		change()
		plan := plan(t, r, f)
		if refused := plan.Refused(); len(refused) > 0 {
			t.Errorf("%s: refused %v", name, refused)
		}
		if plan.Tier != backstay.SnapshotTier || plan.StreamedFrom != "east" || plan.Bytes != dataBytes(f.Point) || plan.Disks[0].From != "streamed from host east" {
			t.Errorf("%s: plan %+v", name, plan)
		}
		if plan.Disks[1].Format != f.Point.Disks[1].Format {
			t.Errorf("%s: a disk that is no overlay is %s", name, plan.Disks[1].Format)
		}
	}
	f.Host.Name = "east"
	if plan := plan(t, r, f); plan.StreamedFrom != "" {
		t.Errorf("on its own host the point is streamed from %s", plan.StreamedFrom)
	}
}

// TestAHostThatIsAwayForLongEndsTheStreamByItsName, one that was only started anew
// does not.
func TestAHostThatIsAwayForLongEndsTheStreamByItsName(t *testing.T) {
	servePatience = 2500 * time.Millisecond
	t.Cleanup(func() { servePatience = 20 * time.Second })
	away := 0
	from := movertest.NewFake(nil)
	from.Hook = func(context.Context, string) error {
		if away--; away >= 0 {
			return backstay.Errorf(backstay.CodeHostAway, "the mover does not answer")
		}
		return nil
	}
	c := carrier{from: from, job: "J", plan: backstay.RestorePlan{Point: "P", StreamedFrom: "east"}}
	next := mover.Exchanged{Asks: []mover.StreamAsk{{ID: 3}, {ID: 4}}}
	away = 1
	served := c.serve(t.Context(), next)
	if len(served.Pieces) != 2 || served.Pieces[0].Error.Code != backstay.CodeUnknownPoint {
		t.Errorf("after it came back: %+v", served)
	}
	away = 1000
	served = c.serve(t.Context(), next)
	if len(served.Pieces) != 2 || served.Pieces[1].ID != 4 || served.Pieces[1].Error.Code != backstay.CodeHostAway || !strings.Contains(served.Pieces[1].Error.Message, "host east went away") {
		t.Errorf("while it is away: %+v", served)
	}
}
