package movertest

import (
	"cmp"
	"context"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

// Room is mover.Rooms': one file system of 1 GiB, on which each point of the
// snapshot tier takes 100 MiB.
func (f *Fake) Room(ctx context.Context) ([]backstay.Room, error) {
	if err := f.enter(ctx, "Room"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	const mib = 1 << 20
	vm := backstay.RoomVM{VM: f.Machine.Ref(), Points: []backstay.RoomPoint{}, Stalled: f.Stalled}
	for id, p := range f.points {
		if p.snapshot {
			vm.Points = append(vm.Points, backstay.RoomPoint{Point: id, Time: p.taken.Time})
		}
	}
	slices.SortFunc(vm.Points, func(a, b backstay.RoomPoint) int {
		return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Point, b.Point))
	})
	vm.Depth, vm.Frozen = len(vm.Points), int64(len(vm.Points))*100*mib
	room := backstay.Room{Folder: "/fake", Device: "memory", Total: 1024 * mib, Free: 1024*mib - vm.Frozen, Merge: min(100*mib, vm.Frozen), VMs: []backstay.RoomVM{}}
	if vm.Depth > 0 {
		room.VMs = append(room.VMs, vm)
	}
	return []backstay.Room{room}, nil
}

// Unstall is mover.Rooms'.
func (f *Fake) Unstall(ctx context.Context, vm backstay.VMID) (bool, error) {
	if err := f.enter(ctx, "Unstall"); err != nil {
		return false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	was := f.Stalled && vm == f.Machine.ID
	f.Stalled = f.Stalled && !was
	return was, nil
}

func testRoom(t *testing.T, s Subject) {
	taken := take(t, s)
	rooms, err := s.Mover.Room(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	for _, room := range rooms {
		for _, on := range room.VMs {
			if on.VM.UUID != s.VM || room.Total <= 0 || room.Free > room.Total || room.Merge < 0 {
				continue
			}
			if slices.ContainsFunc(on.Points, func(p backstay.RoomPoint) bool { return p.Point == taken.Point }) && on.Depth > 0 {
				if was, err := s.Mover.Unstall(t.Context(), s.VM); err != nil || was {
					t.Errorf("a VM that was not stalled was let go on: %v, %v", was, err)
				}
				return
			}
		}
	}
	t.Errorf("the point %s is nowhere in %+v", taken.Point, rooms)
}
