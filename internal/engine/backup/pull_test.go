package backup

import (
	"context"
	"errors"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// pullWorld is a world whose VM is protected by pull, on a host that pulls.
type pullWorld struct {
	*world
	requests []mover.PullRequest
	ended    int // calls of EndPulls
	failure  error
}

func (w *pullWorld) Pull(ctx context.Context, r mover.PullRequest, progress mover.Progress) (mover.Pulled, error) {
	w.requests = append(w.requests, r)
	for _, phase := range []string{"prepare", "snapshot", "transfer", "validate"} {
		progress(mover.Report{Phase: phase, Done: 1, Total: 2})
		if phase == "transfer" {
			progress(mover.Report{Phase: phase, Pack: "pack-1"})
		}
		if err := w.die(ctx, phase); err != nil {
			return mover.Pulled{}, err
		}
	}
	if w.failure != nil {
		return mover.Pulled{}, w.failure
	}
	if !slices.Contains(w.inVault, r.Point) {
		w.inVault = append(w.inVault, r.Point)
	}
	shape := vm()
	shape.ID = "uuid-1"
	disks := []backstay.PointDisk{{Target: "vda", Size: 10, Included: true, DataBytes: 5}}
	return mover.Pulled{
		Taken:       mover.Taken{Point: r.Point, Time: r.Time, Consistency: r.Consistency, Shape: shape, FreezeMs: 7, Disks: disks, Parent: r.Parent},
		Transferred: mover.Transferred{Disks: disks, Stats: backstay.JobStats{BytesRead: 10}, Head: backstay.VaultHead{Seq: uint64(len(w.inVault)), Hash: "aa"}},
		Notes:       []string{"checkpoint-lost: disk vda was compared as a whole"},
	}, w.die(ctx, "after pull")
}

func (w *pullWorld) EndPulls(context.Context, backstay.VMID) error { w.ended++; return nil }

func newPullWorld(t *testing.T, method backstay.Method) *pullWorld {
	w := &pullWorld{world: newWorld(t)}
	must(t, w.catalog.Items.ChangeItem(t.Context(), "uuid-1", func(i *backstay.ProtectedItem) error {
		i.Method = method
		return nil
	}))
	return w
}

func (w *pullWorld) live(params backstay.BackupParams) error {
	ctx, cancel := context.WithCancelCause(w.t.Context())
	defer cancel(nil)
	w.kill = cancel
	r := w.runner()
	r.Mover = func(backstay.HostName) (mover.Mover, error) { return w, nil }
	return r.Run(ctx, w, params)
}

// TestKilledAnywhereAPullGoesOnToOneWholePoint kills the process in every phase.
func TestKilledAnywhereAPullGoesOnToOneWholePoint(t *testing.T) {
	for _, at := range []string{"end of plan", "prepare", "snapshot", "transfer", "validate", "after pull", "end of validate"} {
		t.Run(at, func(t *testing.T) {
			w := newPullWorld(t, backstay.MethodPull)
			w.killAt = at
			if err := w.live(backstay.BackupParams{VM: "uuid-1"}); !errors.Is(err, errKilled) {
				t.Fatalf("first life: %v, want it to be killed", err)
			}
			must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
			points, err := w.catalog.Points.ListPoints(t.Context(), "")
			must(t, err)
			if len(points) != 1 || len(w.inVault) != 1 || points[0].ID != w.inVault[0] {
				t.Fatalf("%d points in the catalogue, %v in the vault", len(points), w.inVault)
			}
			if p := points[0]; !p.Has(backstay.VaultTier) || len(p.Tiers) != 1 || w.seen["default"].Seq != 1 {
				t.Errorf("tiers %+v, head %+v", points[0].Tiers, w.seen)
			}
			if last := w.requests[len(w.requests)-1]; at == "transfer" && !slices.Equal(last.Packs, []string{"pack-1"}) {
				t.Errorf("the second attempt was told of %q", last.Packs)
			}
			if item, err := w.catalog.Items.Item(t.Context(), "uuid-1"); err != nil || item.LastPoint == nil {
				t.Errorf("the item's last point: %+v, %v", item, err)
			}
		})
	}
}

func TestAPullThatFailsFailsTheJobAndLeavesNoPoint(t *testing.T) {
	w := newPullWorld(t, backstay.MethodPull)
	w.failure = backstay.Errorf(backstay.CodeConflict, "another job runs on web01")
	if err := w.live(backstay.BackupParams{VM: "uuid-1"}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("%v", err)
	}
	if points, err := w.catalog.Points.ListPoints(t.Context(), ""); err != nil || len(points) != 0 {
		t.Errorf("points %+v, %v", points, err)
	}
}

func TestALostCheckpointIsAWarning(t *testing.T) {
	w := newPullWorld(t, backstay.MethodPull)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if len(w.warnings) != 1 || !strings.HasPrefix(w.warnings[0], "checkpoint-lost") {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestAPullHasNoPointInTheSnapshotTierAndNoGroup(t *testing.T) {
	for _, params := range []backstay.BackupParams{
		{VM: "uuid-1", Tier: backstay.SnapshotTier},
		{Group: "shop", VMs: []backstay.VMID{"uuid-1"}},
	} {
		w := newPullWorld(t, backstay.MethodPull)
		err := w.live(params)
		if !backstay.IsCode(err, backstay.CodeUsage) || !strings.Contains(err.Error(), "pull") || len(w.requests) != 0 {
			t.Errorf("%+v: %v", params, err)
		}
	}
}

// checkpointed is a world whose VM has checkpoints.
type checkpointed struct {
	*pullWorld
	names []string
}

func (w checkpointed) VMs(ctx context.Context) ([]backstay.VM, error) {
	vms, err := w.pullWorld.VMs(ctx)
	vms[0].Checkpoints = w.names
	return vms, err
}

func TestWithLayersAgainTheCheckpointsOfPullsGo(t *testing.T) {
	for names, want := range map[string]int{"backstay-1 theirs": 1, "theirs": 0} {
		w := newPullWorld(t, backstay.MethodLayers)
		r := w.runner()
		r.Mover = func(backstay.HostName) (mover.Mover, error) { return checkpointed{w, strings.Fields(names)}, nil }
		must(t, r.Run(t.Context(), w, backstay.BackupParams{VM: "uuid-1"}))
		if w.ended != want || len(w.taken) != 1 {
			t.Errorf("checkpoints %q: ended %d times, took %d points", names, w.ended, len(w.taken))
		}
	}
}
