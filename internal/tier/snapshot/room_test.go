package snapshot

import (
	"context"
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// room is the one file system of a world.
func (w *world) room() backstay.Room {
	w.t.Helper()
	rooms, err := w.tier.Room(context.Background())
	must(w.t, err)
	if len(rooms) != 1 {
		w.t.Fatalf("%d file systems", len(rooms))
	}
	return rooms[0]
}

func TestRoomTellsWhoTakesIt(t *testing.T) {
	w := newWorld(t, true)
	if rooms, err := w.tier.Room(context.Background()); err != nil || len(rooms) > 0 {
		t.Fatalf("without layers: %+v, %v", rooms, err)
	}
	first, _ := w.take()
	second, _ := w.take()
	room := w.room()
	if room.Total <= 0 || room.Free > room.Total || room.Device == "" || len(room.VMs) != 1 {
		t.Fatalf("%+v", room)
	}
	vm := room.VMs[0]
	var points []backstay.PointID
	for _, p := range vm.Points {
		points = append(points, p.Point)
		if len(p.Held)+len(p.Transfers) > 0 {
			t.Errorf("nobody holds %+v", p)
		}
	}
	if vm.Depth != 2 || !slices.Equal(points, []backstay.PointID{first, second}) || vm.VM.Name != "web01" || vm.Active <= 0 || vm.Frozen <= 0 {
		t.Errorf("%+v", vm)
	}
}

// A merge may need all that its upper layer holds, and no more than the lower one
// can still grow.
func TestWhatAMergeNeedsIsBounded(t *testing.T) {
	w := newWorld(t, true)
	w.take()
	b, err := w.tier.load()
	must(t, err)
	s := survey{book: b, taken: map[backstay.LayerID]int64{}, seen: map[backstay.LayerID]uint64{}}
	for _, l := range b.Layers {
		s.seen[l.ID] = 1
		if !l.Bottom {
			s.taken[l.ID] = 40 << 10
		}
	}
	for _, l := range b.Layers {
		if l.Bottom {
			continue
		}
		for _, c := range []struct{ lower, want int64 }{{0, 40 << 10}, {diskSize - 8<<10, 8<<10 + diskSize/1000}, {2 * diskSize, 0}} {
			s.taken[l.Parent] = c.lower
			if got := s.mergeNeeds(l); got != c.want {
				t.Errorf("%d bytes into a file of %d needs %d, want %d", s.taken[l.ID], c.lower, got, c.want)
			}
		}
		s.seen[l.Parent] = 2
		if got := s.mergeNeeds(l); got != 0 {
			t.Errorf("a merge into another file system needs %d here", got)
		}
	}
}

// A point on a device, or on another file system, goes for the room that the
// overlay on it takes.
func TestAPointOnADeviceGivesBackTheOverlayOnIt(t *testing.T) {
	w := newWorld(t, true)
	id, _ := w.take()
	b, err := w.tier.load()
	must(t, err)
	s := survey{book: b, rooms: map[uint64]*backstay.Room{1: {}}, taken: map[backstay.LayerID]int64{}, seen: map[backstay.LayerID]uint64{}}
	for _, l := range b.Layers {
		if !l.Bottom {
			s.seen[l.ID] = 1
		}
	}
	if points := s.sum()[0].VMs[0].Points; len(points) != 1 || points[0].Point != id {
		t.Errorf("%+v", points)
	}
}

func TestRoomTellsWhoHoldsAPoint(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, _ := w.take()
	must(t, w.tier.AddUser(first, "vda", User{Kind: UserVM, ID: "copy", Since: time.Now(), Overlay: w.disk("vda.raw")}))
	must(t, w.tier.AddUser(second, "vda", User{Kind: UserTransfer, ID: "JOB", Job: "JOB", Since: time.Now()}))
	points := w.room().VMs[0].Points
	// What stands on the second point's layer stands on the first one's too.
	if len(points[0].Held) != 1 || !slices.Equal(points[0].Transfers, []backstay.JobID{"JOB"}) {
		t.Errorf("%+v", points[0])
	}
	if len(points[1].Held) != 0 || !slices.Equal(points[1].Transfers, []backstay.JobID{"JOB"}) {
		t.Errorf("%+v", points[1])
	}
}
