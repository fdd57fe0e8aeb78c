package snapshot

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// statfs is unix.Statfs but in tests.
var statfs = unix.Statfs

// Room tells for each file system with layers of ours how much is left on it and
// who takes it. It looks at records and files only; VMs are not asked.
func (t *Tier) Room(ctx context.Context) ([]backstay.Room, error) {
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	s := survey{book: b, host: t.host, rooms: map[uint64]*backstay.Room{}, taken: map[backstay.LayerID]int64{}, seen: map[backstay.LayerID]uint64{}}
	for _, l := range b.Layers {
		if err := s.look(l); err != nil {
			return nil, err
		}
	}
	rooms := s.sum()
	for i := range rooms {
		rooms[i].Seen = t.now().UTC()
	}
	return rooms, nil
}

// survey adds up what layers take on each file system.
type survey struct {
	book  *book
	host  backstay.HostName
	rooms map[uint64]*backstay.Room
	taken map[backstay.LayerID]int64  // bytes allocated
	seen  map[backstay.LayerID]uint64 // device
}

// look measures one layer. A file that is gone takes no room.
func (s *survey) look(l *Layer) error {
	if s.book.idle(l) || l.Elsewhere() {
		return nil // what lies elsewhere does not grow beside the layers
	}
	var st unix.Stat_t
	if err := unix.Stat(l.File, &st); errors.Is(err, fs.ErrNotExist) {
		return nil
	} else if err != nil {
		return fmt.Errorf("measure layer %s: %w", l.File, &os.PathError{Op: "stat", Path: l.File, Err: err})
	}
	if st.Mode&unix.S_IFMT != unix.S_IFREG {
		return nil // a block device does not grow
	}
	s.taken[l.ID], s.seen[l.ID] = st.Blocks*512, st.Dev
	if s.rooms[st.Dev] != nil {
		return nil
	}
	folder := filepath.Dir(l.File)
	var f unix.Statfs_t
	if err := statfs(folder, &f); err != nil {
		return fmt.Errorf("measure the room in %s: %w", folder, err)
	}
	s.rooms[st.Dev] = &backstay.Room{
		Host: s.host, Folder: folder, Device: fmt.Sprintf("%d:%d", unix.Major(st.Dev), unix.Minor(st.Dev)),
		Free: int64(f.Bavail) * f.Bsize, Total: int64(f.Blocks) * f.Bsize, VMs: []backstay.RoomVM{},
	}
	return nil
}

// sum makes the answer: file systems by their folders, VMs by name.
func (s *survey) sum() []backstay.Room {
	rooms := make([]backstay.Room, 0, len(s.rooms))
	for dev, room := range s.rooms {
		vms := map[backstay.VMID]*backstay.RoomVM{}
		for id, at := range s.seen {
			if at == dev {
				s.add(room, vms, s.book.Layers[id])
			}
		}
		for _, vm := range vms {
			slices.SortFunc(vm.Points, func(a, b backstay.RoomPoint) int {
				return cmp.Or(a.Time.Compare(b.Time), cmp.Compare(a.Point, b.Point))
			})
			room.VMs = append(room.VMs, *vm)
		}
		slices.SortFunc(room.VMs, func(a, b backstay.RoomVM) int {
			return cmp.Or(cmp.Compare(a.VM.Name, b.VM.Name), cmp.Compare(a.VM.UUID, b.VM.UUID))
		})
		rooms = append(rooms, *room)
	}
	slices.SortFunc(rooms, func(a, b backstay.Room) int { return cmp.Compare(a.Folder, b.Folder) })
	return rooms
}

// add enters a layer into the room that it is in.
func (s *survey) add(room *backstay.Room, vms map[backstay.VMID]*backstay.RoomVM, l *Layer) {
	vm := vms[l.VM]
	if vm == nil {
		vm = &backstay.RoomVM{VM: backstay.VMRef{Host: s.host, UUID: l.VM}, Points: []backstay.RoomPoint{}}
		vms[l.VM] = vm
	}
	if !l.Bottom {
		if frozen := len(l.Points) > 0 || len(s.book.Children(l.ID)) > 0; frozen {
			vm.Frozen += s.taken[l.ID]
		} else {
			vm.Active += s.taken[l.ID]
		}
		room.Merge = max(room.Merge, s.mergeNeeds(l))
	}
	depth := 0
	for _, below := range s.book.Chain(l.ID) {
		if len(below.Points) > 0 {
			depth++
		}
	}
	vm.Depth = max(vm.Depth, depth)
	points := l.Points
	if below := s.book.Layers[l.Parent]; below != nil && !l.Bottom {
		// Dropping a point of the layer below gives this one back, wherever that is:
		// on another file system, or on a device.
		points = slices.Concat(below.Points, points)
	}
	for _, id := range points {
		p := s.book.Points[id]
		if p == nil || p.State == record.PointBroken || slices.ContainsFunc(vm.Points, func(o backstay.RoomPoint) bool { return o.Point == id }) {
			continue
		}
		vm.VM.Name = p.VM.Name
		held, transfers := s.book.holders(p)
		vm.Points = append(vm.Points, backstay.RoomPoint{Point: id, Time: p.Time, Held: held, Transfers: transfers})
	}
}

// mergeNeeds bounds what committing a layer into the one below may take before
// the layer's own file goes: all that it holds, but no more than the lower file
// can still grow. A lower file on another file system needs nothing here.
func (s *survey) mergeNeeds(l *Layer) int64 {
	into := s.book.Layers[l.Parent]
	if into == nil || s.seen[into.ID] != s.seen[l.ID] {
		return 0
	}
	// A qcow2 file of which all is allocated is a little larger than its content.
	most := into.Size + into.Size/1000
	return max(0, min(s.taken[l.ID], most-s.taken[into.ID]))
}

// holders tells who needs the layers of a point as they are: jobs that only read
// them, and all others in words. Sessions of item-level restore are left out: they
// give way.
func (b *book) holders(p *PointRecord) (held []string, transfers []backstay.JobID) {
	for _, d := range p.Disks {
		for _, l := range b.Layers {
			if len(l.Users) == 0 || d.Layer == "" || !slices.ContainsFunc(b.Chain(l.ID), func(x Layer) bool { return x.ID == d.Layer }) {
				continue
			}
			for _, u := range l.Users {
				if u.Kind == record.UserMount {
					continue
				}
				if u.Kind == record.UserTransfer {
					if job := cmp.Or(u.Job, backstay.JobID(u.ID)); !slices.Contains(transfers, job) {
						transfers = append(transfers, job)
					}
					continue
				}
				if who := userInWords(u, l); !slices.Contains(held, who) {
					held = append(held, who)
				}
			}
		}
	}
	if p.Pinned {
		held = append(held, "it is pinned")
	}
	slices.Sort(held)
	slices.Sort(transfers)
	return held, transfers
}
