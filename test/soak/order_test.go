//go:build integration

package soak

import (
	"encoding/binary"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// What the guest's writer does; see `ticker order`.
const (
	orderSlots  = 16
	orderStride = 256 << 10
)

// TestAllDisksOfAPointAreOfOneInstant lets the guest write n to one disk, wait
// until that is durable, and then to another, without a pause and past all file
// systems, so that freezing them does not stop it. No point may show the second
// disk ahead of the first, or more than one behind. While that goes on points are
// dropped too: those that stay, and the guest, keep what they have.
func TestAllDisksOfAPointAreOfOneInstant(t *testing.T) {
	l := newLab(t)
	l.keep(0)
	l.guest("(setsid ticker order /dev/%s /dev/%s >/tmp/order 2>&1 &)", plain, raw)
	t.Cleanup(func() {
		_, _ = l.world.Guest(l.ctx, "", vm, "kill -9 $(pidof ticker)")
	})
	type taken struct {
		id          backstay.PointID
		first, last uint64
	}
	var kept []taken
	last := uint64(0)
	for n := range times(50, 6) {
		id := l.take(backstay.SnapshotTier)
		p := taken{id: id}
		l.restored(id, backstay.SnapshotTier, func(name string) { p.first, p.last = l.marks(name, plain), l.marks(name, raw) })
		if p.last > p.first || p.first > p.last+1 {
			t.Errorf("snapshot %d: the first disk has mark %d and the second %d", n, p.first, p.last)
		}
		if p.first <= last {
			t.Errorf("snapshot %d: the first disk has mark %d, as an earlier point: the writer stands still", n, p.first)
		}
		last = p.first
		kept = append(kept, p)
		if len(kept) < 4 {
			continue
		}
		// A random one goes while the guest writes.
		i := l.rng.IntN(len(kept))
		l.drop(kept[i].id)
		kept = slices.Delete(kept, i, i+1)
		other := kept[l.rng.IntN(len(kept))]
		l.restored(other.id, backstay.SnapshotTier, func(name string) {
			if a, b := l.marks(name, plain), l.marks(name, raw); a != other.first || b != other.last {
				t.Errorf("snapshot %d: after a merge another point has marks %d and %d, not %d and %d", n, a, b, other.first, other.last)
			}
		})
	}
	if out := l.guest("cat /tmp/order"); out != "" {
		t.Errorf("the writer says %q", out)
	}
	l.guest("kill -9 $(pidof ticker)")
	l.keep(0)
	if a, b := l.marks(vm, plain), l.marks(vm, raw); a < last || b < last-1 {
		t.Errorf("after all points were dropped the guest's disks have marks %d and %d, and had %d before", a, b, last)
	}
	l.inOrder("in the end")
}

// marks returns the newest mark on a disk of a VM, after seeing that all marks
// before it are where they belong.
func (l *lab) marks(name string, target backstay.DiskTarget) uint64 {
	l.t.Helper()
	disks, err := l.host.Disks(l.ctx, name)
	must(l.t, err)
	i := slices.IndexFunc(disks, func(d sandbox.DiskFile) bool { return d.Target == string(target) })
	if i < 0 {
		l.t.Fatalf("VM %s has no disk %s", name, target)
	}
	const out = sandbox.Images + "/../marks"
	l.on("rm", "-f", out)
	l.on("qemu-img", "dd", "-U", "-f", disks[i].Format, "-O", "raw", "bs=1M", "count=4", "if="+disks[i].Path, "of="+out)
	data, err := os.ReadFile(filepath.Clean(l.host.Outside(sandbox.Images) + "/../marks"))
	must(l.t, err)
	l.on("rm", "-f", out)
	var marks []uint64
	for slot := range orderSlots {
		at := data[slot*orderStride:]
		n := binary.BigEndian.Uint64(at)
		if want := fmt.Sprintf("mark %d\n", n); n > 0 && string(at[8:8+len(want)]) != want {
			l.t.Errorf("disk %s of %s: slot %d has mark %d in its head and another in its text", target, name, slot, n)
		}
		marks = append(marks, n)
	}
	newest := slices.Max(marks)
	for back := range uint64(min(orderSlots, newest)) {
		if n := newest - back; marks[n%orderSlots] != n {
			l.t.Errorf("disk %s of %s: the newest mark is %d, and %d is missing", target, name, newest, n)
		}
	}
	return newest
}
