//go:build integration

package pull_test

import (
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/internal/tier/pull"
)

// lab is a real host with one running guest whose data disk lies in a small file
// system of its own.
type lab struct {
	t      *testing.T
	ctx    context.Context
	world  *sandbox.World
	host   *sandbox.Host
	hv     *libvirt.Host
	puller *pull.Puller
	vm     backstay.VMID
	small  string // the folder of the data disk
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func run(t *testing.T, name string, args ...string) {
	t.Helper()
	if out, err := exec.Command(name, args...).CombinedOutput(); err != nil {
		t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
}

func newLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	small, err := os.MkdirTemp("", "small")
	must(t, err)
	run(t, "mount", "-t", "tmpfs", "-o", "size=70m", "tmpfs", small)
	t.Cleanup(func() {
		run(t, "umount", small)
		must(t, os.Remove(small))
	})
	w, err := sandbox.Up(ctx, sandbox.Options{NoRegion: true})
	must(t, err)
	t.Cleanup(func() { must(t, w.Down(context.Background())) })
	l := &lab{t: t, ctx: ctx, world: w, small: small}
	l.host, err = w.Host("")
	must(t, err)
	l.hv, err = libvirt.Open(ctx, l.host.URI(), libvirt.Options{})
	must(t, err)
	t.Cleanup(func() { _ = l.hv.Close() })
	l.define()
	l.restart()
	return l
}

// define makes the VM with disk paths that are the same inside and outside the
// host's view of the file system, and its data disk in the small one.
func (l *lab) define() {
	l.t.Helper()
	must(l.t, l.world.AddVM(l.ctx, sandbox.VMSpec{Name: "web01", Off: true, Disks: []sandbox.DiskSpec{{}, {Size: 64 << 20}}}))
	xml, err := l.host.XML(l.ctx, "web01")
	must(l.t, err)
	disks, err := l.host.Disks(l.ctx, "web01")
	must(l.t, err)
	must(l.t, l.host.Undefine(l.ctx, "web01"))
	data := filepath.Join(l.small, "data.qcow2")
	run(l.t, "cp", "--sparse=always", l.host.Outside(disks[1].Path), data)
	xml = strings.ReplaceAll(strings.ReplaceAll(xml, disks[1].Path, data), sandbox.Images, l.host.Outside(sandbox.Images))
	l.vm, err = l.hv.Define(l.ctx, xml)
	must(l.t, err)
	must(l.t, l.hv.Start(l.ctx, l.vm))
	must(l.t, l.world.WaitAgent(l.ctx, "", "web01"))
}

// restart is a new process on the same host.
func (l *lab) restart() {
	l.t.Helper()
	var err error
	l.puller, err = pull.New(pull.Options{
		Hypervisor: l.hv, Images: qemu.New(qemu.Options{Dir: filepath.Join(l.world.Dir, "nbd")}),
		StateDir: filepath.Join(l.world.Dir, "pulls"), SocketDir: filepath.Join(l.world.Dir, "ps"),
	})
	must(l.t, err)
}

func (l *lab) begin(point, parent backstay.PointID, disks ...backstay.DiskTarget) *pull.Session {
	l.t.Helper()
	s, err := l.puller.Begin(l.ctx, pull.Request{Job: "job", Point: point, Parent: parent, VM: l.vm, Disks: disks, Vault: "v"})
	must(l.t, err)
	return s
}

func (l *lab) guest(command string) string {
	l.t.Helper()
	must(l.t, l.world.WaitAgent(l.ctx, "", "web01"))
	out, err := l.world.Guest(l.ctx, "", "web01", command)
	must(l.t, err)
	return out
}

func (l *lab) clean() {
	l.t.Helper()
	for _, folder := range []string{l.small, l.host.Outside(sandbox.Images), filepath.Join(l.world.Dir, "ps")} {
		left, _ := filepath.Glob(filepath.Join(folder, "*scratch*"))
		sockets, _ := filepath.Glob(filepath.Join(folder, "pull-*"))
		if len(left)+len(sockets) > 0 {
			l.t.Errorf("left behind: %q %q", left, sockets)
		}
	}
	if job, runs, err := l.hv.Pulling(l.ctx, l.vm); err != nil || runs {
		l.t.Errorf("a job is left: %+v, %v", job, err)
	}
}

func sum(t *testing.T, d *pull.Disk) string {
	t.Helper()
	digest := sha256.New()
	_, err := io.Copy(digest, io.NewSectionReader(d.Image, 0, d.Image.Size()))
	must(t, err)
	return fmt.Sprintf("%x", digest.Sum(nil))
}

// TestAGuestGoesOnWhenAPullRunsOutOfRoom is the order of I12: a scratch image
// that has no room left costs the backup, not the guest. One boot serves the
// other rules of a real guest too.
func TestAGuestGoesOnWhenAPullRunsOutOfRoom(t *testing.T) {
	pull.SetRoom(8<<20, 4<<20)
	l := newLab(t)
	l.guest("head -c 40000000 /dev/urandom > /data/big; sync")

	// What is served does not change while the guest writes.
	s := l.begin("P1", "", "vda", "vdb")
	before := sum(t, s.Disks[1])
	l.guest("echo changed > /data/small; sync")
	if sum(t, s.Disks[1]) != before {
		t.Error("a served disk changed under its reader")
	}
	must(t, s.Close(l.ctx, true))
	l.clean()

	// The changes of a served disk are those since the point before.
	s = l.begin("P2", "P1", "vda", "vdb")
	if d := s.Disks[1]; !d.HasMap || backstay.TotalLength(d.Changed) == 0 || backstay.TotalLength(d.Changed) > 16<<20 {
		t.Errorf("%d bytes changed (%v, %q)", backstay.TotalLength(d.Changed), d.HasMap, d.Reason)
	}

	// The guest overwrites more than there is room for, in steps that leave the
	// little room of this test standing between two looks at it.
	l.guest("for i in $(seq 0 37); do dd if=/dev/zero of=/data/big bs=1M count=1 seek=$i conv=notrunc,fsync 2>/dev/null; done; echo written > /data/small; sync")
	if vm, err := l.hv.Domain(l.ctx, l.vm); err != nil || vm.VM.State != backstay.VMRunning {
		t.Errorf("the guest is %s, %v", vm.VM.State, err)
	}
	var failed error
	for at := int64(0); at < s.Disks[1].Size && failed == nil; at += 1 << 20 {
		_, failed = s.Disks[1].Image.ReadAt(make([]byte, 4096), at)
	}
	if !backstay.IsCode(failed, backstay.CodeNoSpace) {
		t.Errorf("reading goes on with %v, want code no-space", failed)
	}
	must(t, s.Close(l.ctx, false))
	l.clean()

	// A process that dies leaves a job, which the next one ends.
	l.guest("rm /data/big; sync")
	s = l.begin("P3", "P1", "vda")
	l.restart()
	swept, err := l.puller.Sweep(l.ctx, func(context.Context, backstay.VMID) (func(), error) { return func() {}, nil })
	if err != nil || len(swept.Ended) != 1 {
		t.Errorf("swept %+v, %v", swept, err)
	}
	l.clean()
	_ = s.Close(l.ctx, false)

	// A VM that ends in the middle ends the job: what is read after that fails.
	s = l.begin("P4", "P1", "vda")
	must(t, l.hv.Destroy(l.ctx, l.vm))
	if _, err := s.Disks[0].Image.ReadAt(make([]byte, 4096), 0); err == nil || errors.Is(err, io.EOF) {
		t.Errorf("a disk of a dead QEMU could be read: %v", err)
	}
	must(t, s.Close(l.ctx, false))
	l.clean()
}
