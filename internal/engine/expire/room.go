package expire

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// Candidate is a point that may leave the snapshot tier to make room, or why it
// may not.
type Candidate struct {
	VM backstay.VMRef
	backstay.RoomPoint
	// InVault: nothing is lost with it but the instant restore.
	InVault bool
	// Newest: the next run has no change map without it, and compares everything.
	Newest bool
}

// Free tells whether the point can go now.
func (c Candidate) Free() bool { return len(c.Held) == 0 && len(c.Transfers) == 0 }

// RoomPlan orders the points of all VMs on one file system as they go when its
// floor is not held: what a vault has first, oldest first; then what is nowhere
// else, for the guest goes first (I12); the newest one of each VM last. inVault
// tells which points a vault has; pinned which ones somebody wants to be kept.
func RoomPlan(room backstay.Room, inVault, pinned func(backstay.PointID) bool) []Candidate {
	var plan []Candidate
	for _, vm := range room.VMs {
		for i, p := range vm.Points {
			if pinned(p.Point) && !slices.Contains(p.Held, heldByPin) {
				p.Held = append(slices.Clone(p.Held), heldByPin)
			}
			plan = append(plan, Candidate{VM: vm.VM, RoomPoint: p, InVault: inVault(p.Point), Newest: i == len(vm.Points)-1})
		}
	}
	slices.SortStableFunc(plan, func(a, b Candidate) int {
		return cmp.Or(order(a)-order(b), a.Time.Compare(b.Time), cmp.Compare(a.Point, b.Point))
	})
	return plan
}

const heldByPin = "it is pinned"

func order(c Candidate) int {
	switch {
	case c.Newest && c.InVault:
		return 2
	case c.Newest:
		return 3
	case !c.InVault:
		return 1
	}
	return 0
}

// Holders says who holds the points that cannot go, in words.
func Holders(plan []Candidate) string {
	var who []string
	for _, c := range plan {
		if !c.Free() {
			why := slices.Clone(c.Held)
			for _, job := range c.Transfers {
				why = append(why, fmt.Sprintf("job %s reads it", job))
			}
			who = append(who, fmt.Sprintf("point %s of %s: %s", c.Point, c.VM.Name, strings.Join(why, ", ")))
		}
	}
	return strings.Join(who, "; ")
}

// PlanRoom plans for one file system with what the catalogue knows of its points.
func (r *Runner) PlanRoom(ctx context.Context, room backstay.Room) ([]Candidate, error) {
	known := map[backstay.PointID]backstay.RecoveryPoint{}
	for _, vm := range room.VMs {
		points, err := r.Catalog.Points.ListPoints(ctx, vm.VM.UUID)
		if err != nil {
			return nil, fmt.Errorf("list points: %w", err)
		}
		for _, p := range points {
			known[p.ID] = p
		}
	}
	return RoomPlan(room, func(id backstay.PointID) bool {
		p := known[id]
		return p.Has(backstay.VaultTier)
	}, func(id backstay.PointID) bool { return known[id].Pinned }), nil
}

// makeRoom drops points of one VM while it is its turn on the file system: until
// the floor is held, a point of another VM should go first, or nothing of this VM
// can go. It looks anew before each drop.
func (r *Runner) makeRoom(ctx context.Context, run backstay.Run, params backstay.ExpireParams) error {
	m, err := r.Mover(params.Host)
	if err != nil {
		return err
	}
	return run.Step(ctx, "drop", func(ctx context.Context) error {
		var refused []backstay.PointID
		for {
			if err := ctx.Err(); err != nil {
				return err
			}
			room, low, err := r.look(ctx, m, params)
			if err != nil || !low {
				return err
			}
			plan, err := r.PlanRoom(ctx, room)
			if err != nil {
				return err
			}
			i := slices.IndexFunc(plan, func(c Candidate) bool {
				return c.Free() && !slices.Contains(refused, c.Point) && !slices.Contains(params.Passed, c.VM.UUID)
			})
			if i < 0 || plan[i].VM.UUID != params.VM {
				if len(refused) > 0 { // the warnings say why; the VM is passed over for a while
					return backstay.Errorf(backstay.CodeNoSpace, "%s has %d MiB free of the %d MiB that must stay free", room.Folder, room.Free>>20, room.Floor>>20).
						Becausef("%d points of the VM cannot go now", len(refused)).Do("see the job's warnings for who needs them")
				}
				return nil
			}
			if err := r.dropForRoom(ctx, run, m, room, plan[i]); err != nil {
				if ctx.Err() != nil {
					return err
				}
				refused = append(refused, plan[i].Point)
				if err := run.Warn(fmt.Sprintf("point %s stays in the snapshot tier: %v", plan[i].Point, err)); err != nil {
					return err
				}
			}
		}
	})
}

// look measures the file system that is short of room.
func (r *Runner) look(ctx context.Context, m mover.Mover, params backstay.ExpireParams) (room backstay.Room, low bool, err error) {
	rooms, err := m.Room(ctx)
	if err != nil {
		return room, false, err
	}
	for _, room := range rooms {
		if room.Device == params.Device {
			room.Floor = r.Floor(params.Host, room)
			return room, room.Free-params.Ahead < room.Floor, nil
		}
	}
	return room, false, nil // no layers are left there
}

// noRoom is what those are told whose sessions give way.
func noRoom(room backstay.Room) string {
	return fmt.Sprintf("the room of a layer that it read is needed: %s has %d MiB free", room.Folder, room.Free>>20)
}

// dropForRoom drops one point before its time, and says so. A point that the
// catalogue does not know, such as a change map, goes by the host's word alone.
func (r *Runner) dropForRoom(ctx context.Context, run backstay.Run, m mover.Mover, room backstay.Room, c Candidate) error {
	progress := func(p mover.Report) { run.Progress(p.Done, p.Total) }
	point, err := r.Catalog.Points.Point(ctx, c.Point)
	switch {
	case err == nil && stateOf(point, backstay.SnapshotTier) != "":
		err = r.drop(ctx, run, Verdict{Point: c.Point, Tier: backstay.SnapshotTier, Drop: true, Needed: noRoom(room)})
	case err == nil || errors.Is(err, catalog.ErrNotFound):
		err = mover.DropNeeded(ctx, m, mover.Needed{Point: c.Point, Why: noRoom(room)}, progress)
	}
	if err != nil {
		return err
	}
	lost := "it is still in its vault"
	switch {
	case !c.InVault:
		lost = "it was in no vault and is gone"
	case c.Newest:
		lost += "; the next backup compares everything"
	}
	return run.Warn(fmt.Sprintf("point %s left the snapshot tier before its time: %s had %d MiB free, and %d MiB must stay free; %s",
		c.Point, room.Folder, room.Free>>20, room.Floor>>20, lost))
}
