//go:build integration

package snapshot_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// lab is a real host with one running guest of a raw system disk and a qcow2
// data disk, and the snapshot tier on it.
type lab struct {
	t      *testing.T
	ctx    context.Context
	world  *sandbox.World
	host   *sandbox.Host
	hv     *libvirt.Host
	images *qemu.Images
	tier   *snapshot.Tier
	vm     backstay.VMID
	seq    int
	sums   map[backstay.PointID]string
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	w, err := sandbox.Up(ctx, sandbox.Options{NoRegion: true})
	must(t, err)
	t.Cleanup(func() { must(t, w.Down(context.Background())) })
	l := &lab{t: t, ctx: ctx, world: w, sums: map[backstay.PointID]string{}}
	l.host, err = w.Host("")
	must(t, err)
	l.hv, err = libvirt.Open(ctx, l.host.URI(), libvirt.Options{})
	must(t, err)
	t.Cleanup(func() { _ = l.hv.Close() })
	l.images = qemu.New(qemu.Options{Dir: filepath.Join(w.Dir, "nbd")})
	l.define()
	l.newTier()
	return l
}

// define makes the VM with disk paths that are the same inside and outside the
// host's view of the file system.
func (l *lab) define() {
	l.t.Helper()
	must(l.t, l.world.AddVM(l.ctx, sandbox.VMSpec{Name: "web01", Off: true, Disks: []sandbox.DiskSpec{{Raw: true}, {Size: 64 << 20}}}))
	xml, err := l.host.XML(l.ctx, "web01")
	must(l.t, err)
	must(l.t, l.host.Undefine(l.ctx, "web01"))
	xml = strings.ReplaceAll(xml, sandbox.Images, l.host.Outside(sandbox.Images))
	l.vm, err = l.hv.Define(l.ctx, xml)
	must(l.t, err)
	must(l.t, l.hv.Start(l.ctx, l.vm))
	must(l.t, l.world.WaitAgent(l.ctx, "", "web01"))
}

// newTier is a new process on the same host.
func (l *lab) newTier() {
	l.t.Helper()
	snapshot.CutOff(nil)
	var err error
	l.tier, err = snapshot.New(snapshot.Options{
		Hypervisor: l.hv, Images: l.images, Keyring: keyfile.New(filepath.Join(l.world.Dir, "keys")),
		StateDir: filepath.Join(l.world.Dir, "state"), Host: "east",
	})
	must(l.t, err)
}

// write changes both disks in the guest.
func (l *lab) write() {
	l.t.Helper()
	l.guest(fmt.Sprintf("head -c 3000000 /dev/urandom >/data/f%d; head -c 1000000 /dev/urandom >/var/log/f%d; cat /data/f* /var/log/f* | sha256sum >/data/sum; sync", l.seq, l.seq))
}

// intact sees that the guest finds on its disks what it wrote.
func (l *lab) intact(when string) {
	l.t.Helper()
	got := l.guest("echo 3 >/proc/sys/vm/drop_caches; cat /data/f* /var/log/f* | sha256sum | cmp - /data/sum && echo same")
	if strings.TrimSpace(got) != "same" {
		l.t.Errorf("%s the guest finds something else on its disks: %q", when, got)
	}
}

func (l *lab) guest(command string) string {
	l.t.Helper()
	must(l.t, l.world.WaitAgent(l.ctx, "", "web01"))
	out, err := l.world.Guest(l.ctx, "", "web01", command)
	must(l.t, err)
	return out
}

// take takes a point and remembers its content.
func (l *lab) take() backstay.PointID {
	l.t.Helper()
	l.seq++
	id := backstay.PointID(fmt.Sprintf("01POINT%019d", l.seq))
	_, err := l.tier.Prepare(l.ctx, snapshot.Request{Job: "job", Point: id, VM: l.vm, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	must(l.t, err)
	p, err := l.tier.Take(l.ctx, snapshot.TakeRequest{Point: id, VM: l.vm, Wish: backstay.FileSystemConsistent, Time: time.Now().UTC()})
	must(l.t, err)
	l.t.Logf("point %d: %s, %s, %d ms", l.seq, p.Consistency, p.Reason, p.FreezeMs)
	l.sums[id] = l.sum(id)
	return id
}

func (l *lab) sum(id backstay.PointID) string {
	l.t.Helper()
	p, err := l.tier.Open(l.ctx, id)
	must(l.t, err)
	digest := sha256.New()
	for _, d := range p.Disks {
		img, err := p.OpenDisk(l.ctx, d.Target, "reader")
		must(l.t, err)
		_, err = copyAll(digest, img, img.Size())
		must(l.t, errors.Join(err, img.Close()))
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}

// same sees that exactly these points are there and hold what they held.
func (l *lab) same(when string, ids ...backstay.PointID) {
	l.t.Helper()
	points, err := l.tier.Points(l.ctx)
	must(l.t, err)
	if len(points) != len(ids) {
		l.t.Errorf("%s there are %d points, not %d", when, len(points), len(ids))
	}
	for _, id := range ids {
		if l.sum(id) != l.sums[id] {
			l.t.Errorf("%s point %s is not what it was", when, id)
		}
	}
}

func (l *lab) drop(id backstay.PointID) {
	l.t.Helper()
	must(l.t, l.tier.Drop(l.ctx, id, nil))
}

// copyAll reads in pieces that are worth a request each.
func copyAll(to io.Writer, from io.ReaderAt, size int64) (int64, error) {
	return io.CopyBuffer(to, io.NewSectionReader(from, 0, size), make([]byte, 1<<20))
}

// active is the content of the disks of a VM that is shut off.
func (l *lab) active() string {
	l.t.Helper()
	domain, err := l.hv.Domain(l.ctx, l.vm)
	must(l.t, err)
	digest := sha256.New()
	for _, d := range domain.VM.Disks {
		e, err := l.images.Export(l.ctx, d.Source, hypervisor.ExportOptions{Format: d.Format})
		must(l.t, err)
		c, err := nbd.Dial(l.ctx, e.Socket(), e.Name(), nbd.Options{})
		must(l.t, err)
		_, err = copyAll(digest, c, c.Size())
		must(l.t, errors.Join(err, c.Close(), e.Close()))
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}

// files lists the disk images of the VM's folder.
func (l *lab) files() []string {
	l.t.Helper()
	entries, err := os.ReadDir(l.host.Outside(sandbox.Images))
	must(l.t, err)
	var names []string
	for _, e := range entries {
		if strings.HasPrefix(e.Name(), "web01") {
			names = append(names, e.Name())
		}
	}
	return names
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestPointsKeepTheirContentWhileOthersAreDropped on a real guest: oldest,
// middle and newest, while it runs and while it is shut off.
func TestPointsKeepTheirContentWhileOthersAreDropped(t *testing.T) {
	l := newLab(t)
	var p []backstay.PointID
	for range 4 {
		l.write()
		p = append(p, l.take())
	}
	l.write()
	l.same("at first", p...)
	l.drop(p[1])
	l.same("after the middle one was dropped", p[0], p[2], p[3])
	l.drop(p[0])
	l.same("after the oldest was dropped", p[2], p[3])
	l.drop(p[3])
	l.same("after the newest was dropped", p[2])
	l.intact("after three drops")

	must(t, l.hv.Destroy(l.ctx, l.vm))
	p = append(p, l.take(), l.take(), l.take())
	off := l.active()
	l.same("shut off", p[2], p[4], p[5], p[6])
	l.drop(p[4])
	l.drop(p[2])
	l.drop(p[6])
	l.same("after three drops while shut off", p[5])
	if l.active() != off {
		t.Error("drops changed the disks of the VM that is shut off")
	}
	must(t, l.hv.Start(l.ctx, l.vm))
	l.intact("after a new start")
	l.write()
	_, err := l.tier.Release(l.ctx, l.vm, nil)
	must(t, err)
	l.intact("after the release")
	if got := l.files(); len(got) != 2 {
		t.Errorf("after the release there are %v", got)
	}
	must(t, l.hv.Destroy(l.ctx, l.vm))
	must(t, l.hv.Start(l.ctx, l.vm))
	l.intact("after the release and a new start")
}

// TestChangeMapCoversAllThatTheGuestChanged compares two points byte by byte.
func TestChangeMapCoversAllThatTheGuestChanged(t *testing.T) {
	l := newLab(t)
	l.write()
	first := l.take()
	l.write()
	l.guest("rm /data/f0; fstrim /data || true; sync")
	second := l.take()
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		changed, ok, reason, err := l.tier.Changes(l.ctx, second, first, target)
		if err != nil || !ok {
			t.Fatalf("no change map of %s: %s, %v", target, reason, err)
		}
		t.Logf("disk %s: %d ranges, %d bytes", target, len(changed), backstay.TotalLength(changed))
		l.equalOutside(target, first, second, changed)
	}
}

func (l *lab) equalOutside(target backstay.DiskTarget, first, second backstay.PointID, changed []backstay.Range) {
	l.t.Helper()
	var data [2][]byte
	for i, id := range []backstay.PointID{first, second} {
		p, err := l.tier.Open(l.ctx, id)
		must(l.t, err)
		img, err := p.OpenDisk(l.ctx, target, "reader")
		must(l.t, err)
		data[i], err = io.ReadAll(io.NewSectionReader(img, 0, img.Size()))
		must(l.t, errors.Join(err, img.Close()))
	}
	differ := false
	for _, r := range changed {
		differ = differ || string(data[0][r.Offset:r.End()]) != string(data[1][r.Offset:r.End()])
		copy(data[0][r.Offset:r.End()], data[1][r.Offset:r.End()])
	}
	if !differ {
		l.t.Errorf("disk %s: nothing differs, so the test tells nothing", target)
	}
	if string(data[0]) != string(data[1]) {
		l.t.Errorf("disk %s differs outside the change map", target)
	}
}

// TestMergeCutOffIsFinishedByTheNextStart ends the process at every third durable
// step of dropping the newest point of a running guest, whose merge moves the
// VM. The fake host is cut off at each.
func TestMergeCutOffIsFinishedByTheNextStart(t *testing.T) {
	l := newLab(t)
	l.write()
	kept := l.take()
	for n := 0; ; n += 3 {
		l.write()
		id := l.take()
		l.write()
		left, crashed := n, false
		snapshot.CutOff(func(string) error {
			if left--; left < 0 {
				crashed = true
				return errors.New("the process ended here")
			}
			return nil
		})
		err := l.tier.Drop(l.ctx, id, nil)
		if (err != nil) != crashed {
			t.Fatalf("step %d: crashed %v, error %v", n, crashed, err)
		}
		l.newTier()
		_, err = l.tier.Sweep(l.ctx, snapshot.SweepOptions{})
		must(t, err)
		l.intact(fmt.Sprintf("step %d: after the sweep", n))
		if _, err := l.tier.Open(l.ctx, id); err == nil {
			l.same(fmt.Sprintf("step %d", n), kept, id)
			l.drop(id)
		}
		l.same(fmt.Sprintf("step %d: after the drop", n), kept)
		if got := l.files(); len(got) != 4 {
			t.Errorf("step %d: files are %v", n, got)
		}
		if !crashed {
			break
		}
	}
}

// fork defines a VM that stands on a point and is shut off, as an instant restore
// leaves it, and returns its disks.
func (l *lab) fork(id backstay.PointID, name string, vm backstay.VMID) []string {
	l.t.Helper()
	p, err := l.tier.Open(l.ctx, id)
	must(l.t, err)
	var overlays []string
	devices := ""
	for _, d := range p.Disks {
		overlay := filepath.Join(l.host.Outside(sandbox.Images), fmt.Sprintf("%s-%s.qcow2", name, d.Target))
		must(l.t, l.tier.AddUser(id, d.Target, snapshot.User{Kind: snapshot.UserVM, ID: string(vm), Overlay: overlay}))
		must(l.t, l.images.CreateOverlay(l.ctx, hypervisor.Overlay{Path: overlay, Backing: hypervisor.Plain(d.Path, d.Format)}))
		devices += fmt.Sprintf("<disk type='file' device='disk'><driver name='qemu' type='qcow2'/><source file='%s'/><target dev='%s' bus='virtio'/></disk>", overlay, d.Target)
		overlays = append(overlays, overlay)
	}
	_, err = l.hv.Define(l.ctx, fmt.Sprintf("<domain type='qemu'><name>%s</name><uuid>%s</uuid><memory unit='MiB'>32</memory><vcpu>1</vcpu>"+
		"<os><type arch='x86_64' machine='q35'>hvm</type></os><devices>%s</devices></domain>", name, vm, devices))
	must(l.t, err)
	return overlays
}

// sumOf is the content of images that nobody writes to.
func (l *lab) sumOf(overlays []string) string {
	l.t.Helper()
	digest := sha256.New()
	for _, path := range overlays {
		e, err := l.images.Export(l.ctx, path, hypervisor.ExportOptions{Format: "qcow2"})
		must(l.t, err)
		c, err := nbd.Dial(l.ctx, e.Socket(), e.Name(), nbd.Options{})
		must(l.t, err)
		_, err = copyAll(digest, c, c.Size())
		must(l.t, errors.Join(err, c.Close(), e.Close()))
	}
	return fmt.Sprintf("%x", digest.Sum(nil))
}

// TestReleaseWhileARestoredVMStandsOnALayer on a real guest: first running, then
// shut off. The restored VMs keep what they had, and so does the guest.
func TestReleaseWhileARestoredVMStandsOnALayer(t *testing.T) {
	l := newLab(t)
	var forks [][]string
	var ids []backstay.PointID
	for i, running := range []bool{true, false} {
		l.write()
		id := l.take()
		l.write()
		l.take()
		l.write()
		forks = append(forks, l.fork(id, fmt.Sprintf("fork%d", i), backstay.VMID(fmt.Sprintf("%08d-2222-4222-8222-222222222222", i))))
		ids = append(ids, id)
		if !running {
			must(t, l.hv.Destroy(l.ctx, l.vm))
		}
		notes, err := l.tier.Release(l.ctx, l.vm, nil)
		must(t, err)
		if got := len(notes); got != map[bool]int{true: 2, false: 0}[running] {
			t.Errorf("running %v: the notes are %q", running, notes)
		}
		if !running {
			must(t, l.hv.Start(l.ctx, l.vm))
		}
		l.intact(fmt.Sprintf("running %v: after the release", running))
		for n := range forks {
			if l.sumOf(forks[n]) != l.sums[ids[n]] {
				t.Errorf("running %v: restored VM %d has not what it had", running, n)
			}
		}
	}
	must(t, l.hv.Destroy(l.ctx, l.vm))
	must(t, l.hv.Start(l.ctx, l.vm))
	l.intact("after a new start")
}
