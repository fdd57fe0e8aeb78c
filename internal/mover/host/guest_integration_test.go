//go:build integration

package host

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/hypervisor/qemu"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/sandbox"
)

// guestWorld is a host with one real guest, whose data disk lies on a disk of
// 8 MiB/s that its backup reads too, and a vault in memory.
type guestWorld struct {
	testWorld
	ctx   context.Context
	world *sandbox.World
	on    *sandbox.Host
	lv    *libvirt.Host
	vm    backstay.VMID
	slow  string
}

const slowRate = 8 << 20

// newRealWorld is a world without VMs.
func newRealWorld(t *testing.T) *guestWorld {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 8*time.Minute)
	t.Cleanup(cancel)
	w := &guestWorld{testWorld: testWorld{t: t, logs: &lockedBuffer{}}, ctx: ctx}
	var err error
	w.world, err = sandbox.Up(ctx, sandbox.Options{NoRegion: true})
	must(t, err)
	t.Cleanup(func() { must(t, w.world.Down(context.Background())) })
	w.dir = w.world.Dir
	w.on, err = w.world.Host("")
	must(t, err)
	w.lv, err = libvirt.Open(ctx, w.on.URI(), libvirt.Options{})
	must(t, err)
	t.Cleanup(func() { _ = w.lv.Close() })
	w.makeVault()
	w.host, err = New(Options{
		Hypervisor: w.lv, Images: qemu.New(qemu.Options{Dir: w.path("nbd")}), Keyring: keyfile.New(w.path("keys")),
		StateDir: w.path("mover"), OpenVault: w.openVault, Name: "east",
	})
	must(t, err)
	return w
}

func newGuestWorld(t *testing.T) *guestWorld {
	t.Helper()
	w := newRealWorld(t)
	var remove func() error
	var err error
	w.slow, remove, err = w.world.SlowFolder(w.ctx, "", slowRate)
	must(t, err)
	t.Cleanup(func() { must(t, remove()) })
	w.define()
	t.Cleanup(func() { must(t, w.lv.Destroy(context.Background(), w.vm)) })
	return w
}

// define makes the VM with its data disk in the slow folder, and paths that are
// the same here and on the host.
func (w *guestWorld) define() {
	w.t.Helper()
	must(w.t, w.world.AddVM(w.ctx, sandbox.VMSpec{Name: "web01", Off: true, Disks: []sandbox.DiskSpec{{}, {Size: 256 << 20}}}))
	xml, err := w.on.XML(w.ctx, "web01")
	must(w.t, err)
	must(w.t, w.on.Undefine(w.ctx, "web01"))
	images := w.on.Outside(sandbox.Images)
	moved := filepath.Join(w.slow, "web01-vdb.qcow2")
	must(w.t, exec.Command("cp", "--sparse=always", filepath.Join(images, "web01-vdb.qcow2"), moved).Run())
	xml = strings.ReplaceAll(xml, sandbox.Images+"/web01-vdb.qcow2", moved)
	w.vm, err = w.lv.Define(w.ctx, strings.ReplaceAll(xml, sandbox.Images, images))
	must(w.t, err)
	must(w.t, w.lv.Start(w.ctx, w.vm))
	must(w.t, w.world.WaitAgent(w.ctx, "", "web01"))
}

func (w *guestWorld) guest(command string) string {
	w.t.Helper()
	out, err := w.world.Guest(w.ctx, "", "web01", command)
	must(w.t, err)
	return out
}

// take takes a point of the data disk.
func (w *guestWorld) take(id backstay.PointID) {
	w.t.Helper()
	_, err := w.host.Prepare(w.ctx, mover.PrepareRequest{Job: testJob, Point: id, VM: w.vm, Disks: []backstay.DiskTarget{"vdb"}})
	must(w.t, err)
	_, err = w.host.Take(w.ctx, mover.TakeRequest{Job: testJob, Point: id, VM: w.vm, Consistency: backstay.CrashConsistent, Time: time.Now().UTC()})
	must(w.t, err)
}

// forget lets the machine's memory hold nothing of a frozen layer, so that it is
// read from its disk.
func (w *guestWorld) forget(path string) {
	w.t.Helper()
	out, err := exec.Command("dd", "of="+path, "oflag=nocache", "conv=notrunc,fdatasync", "count=0").CombinedOutput()
	if err != nil {
		w.t.Fatalf("%v: %s", err, out)
	}
}

// felt is what the guest's own writer saw: 4 KiB made durable, again and again.
type felt struct {
	PerSecond float64 `json:"perSecond"`
	WorstMs   float64 `json:"worstMs"`
}

// feels runs the guest's writer for so many seconds.
func (w *guestWorld) feels(seconds int) (f felt) {
	w.t.Helper()
	must(w.t, json.Unmarshal([]byte(w.guest(fmt.Sprintf("ticker -json /data/tick %d", seconds))), &f))
	return f
}

// during runs the guest's writer while the point is carried into the vault, from
// its beginning on and again, until the writer has ended.
func (w *guestWorld) during(seconds int, r mover.TransferRequest) (felt, map[string]bool) {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.ctx)
	ended := make(chan error, 1)
	notes := map[string]bool{}
	go func() {
		_, err := w.host.Transfer(ctx, r, func(r mover.Report) { notes[r.Note] = true })
		ended <- err
	}()
	f := w.feels(seconds)
	cancel(backstay.ErrCancelled)
	if err := <-ended; err != nil && !errors.Is(err, backstay.ErrCancelled) {
		w.t.Error(err)
	}
	return f, notes
}

// blind tells nothing of any guest.
type blind struct{}

func (blind) IOStats(context.Context, backstay.VMID) (map[backstay.DiskTarget]hypervisor.IOStats, error) {
	return nil, nil
}

// TestABackupOnASlowDiskLeavesTheGuestItsShare: I12. The guest and its backup share
// a disk of 8 MiB/s. A backup that does not look at the guest takes most of what
// its writer had; one that does leaves it a multiple of that. All is compared
// within the run, by how many writes the guest gets done.
func TestABackupOnASlowDiskLeavesTheGuestItsShare(t *testing.T) {
	w := newGuestWorld(t)
	w.guest("ticker fill /data/big 0 56000000 7; sync")
	w.take(pointID)
	layer := w.layerOf(pointID, "vdb")
	r := mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}
	idle := w.feels(4)

	w.forget(layer)
	pacer := w.host.pacer.Pacer
	w.host.pacer.Pacer = pace.New(pace.Options{Stats: blind{}})
	unpaced, _ := w.during(5, r)

	w.forget(layer)
	w.host.pacer.Pacer = pacer
	r.Job += "2"
	paced, notes := w.during(10, r)

	t.Logf("writes per second: idle %.1f, during a backup that does not look %.1f, during one that does %.1f; worst %.0f, %.0f, %.0f ms; notes %v",
		idle.PerSecond, unpaced.PerSecond, paced.PerSecond, idle.WorstMs, unpaced.WorstMs, paced.WorstMs, notes)
	if unpaced.PerSecond > idle.PerSecond/2 {
		t.Errorf("the disk is not slow enough to show anything: %.1f writes per second without a backup, %.1f with", idle.PerSecond, unpaced.PerSecond)
	}
	if paced.PerSecond < 2*unpaced.PerSecond {
		t.Errorf("the guest had %.1f writes per second, and %.1f with a backup that does not look at it", paced.PerSecond, unpaced.PerSecond)
	}
	if !notes["slowed down for the guest"] && !notes["stopped for the guest"] {
		t.Errorf("nothing was said: %v", notes)
	}
	w.neverThroughTheGuestsQEMU()
}

// neverThroughTheGuestsQEMU sees that a transfer reads the frozen layer with a
// process of its own: the guest's QEMU reads nothing for it.
func (w *guestWorld) neverThroughTheGuestsQEMU() {
	w.t.Helper()
	w.guest("sync; echo 3 >/proc/sys/vm/drop_caches")
	pid, err := w.on.QEMUPID("web01")
	must(w.t, err)
	stats := func() int64 {
		all, err := w.lv.IOStats(w.ctx, w.vm)
		must(w.t, err)
		return all["vdb"].Reads.Requests
	}
	requests, chars := stats(), charsRead(w.t, pid)
	done, err := w.host.Transfer(w.ctx, mover.TransferRequest{Job: testJob + "3", Point: pointID, Vault: w.access}, nil)
	must(w.t, err)
	if read := charsRead(w.t, pid) - chars; done.Stats.BytesRead < 50_000_000 || read > done.Stats.BytesRead/10 {
		w.t.Errorf("the transfer read %d bytes, and meanwhile the guest's QEMU %d", done.Stats.BytesRead, read)
	}
	if more := stats() - requests; more > 50 {
		w.t.Errorf("the guest's disk was asked %d times", more)
	}
	for _, socket := range w.exports() {
		w.t.Errorf("%s is left", socket)
	}
}

// exports are the sockets of readers.
func (w *guestWorld) exports() []string {
	found, _ := filepath.Glob(w.path("nbd/*/*.sock"))
	return found
}

// charsRead is how many bytes a process has read, from wherever.
func charsRead(t *testing.T, pid int) int64 {
	t.Helper()
	data, err := os.ReadFile(fmt.Sprintf("/proc/%d/io", pid))
	must(t, err)
	m := regexp.MustCompile(`rchar: (\d+)`).FindSubmatch(bytes.TrimSpace(data))
	if m == nil {
		t.Fatalf("%s", data)
	}
	n, err := strconv.ParseInt(string(m[1]), 10, 64)
	must(t, err)
	return n
}

// TestTheSecondBackupOfAnIdleDiskReadsNextToNothing, however large it is: what a
// run costs goes by what changed. The disks have 8 MiB each, far inside.
func TestTheSecondBackupOfAnIdleDiskReadsNextToNothing(t *testing.T) {
	w := newRealWorld(t)
	for i, size := range []int64{1 << 30, 1 << 40} {
		name := fmt.Sprintf("idle%d", i)
		must(t, w.world.AddVM(w.ctx, sandbox.VMSpec{Name: name, Off: true, Disks: []sandbox.DiskSpec{{}, {Raw: true, Size: size, Blank: true}}}))
		xml, err := w.on.XML(w.ctx, name)
		must(t, err)
		must(t, w.on.Undefine(w.ctx, name))
		w.vm, err = w.lv.Define(w.ctx, strings.ReplaceAll(xml, sandbox.Images, w.on.Outside(sandbox.Images)))
		must(t, err)
		file, err := os.OpenFile(filepath.Join(w.on.Outside(sandbox.Images), name+"-vdb.img"), os.O_WRONLY, 0)
		must(t, err)
		data := make([]byte, 8<<20)
		for n := range data {
			data[n] = byte(n>>9 + n)
		}
		_, err = file.WriteAt(data, size/2)
		must(t, err)
		must(t, file.Close())

		points := []backstay.PointID{backstay.PointID(fmt.Sprintf("01JP00000000000000000001%d0", i)), backstay.PointID(fmt.Sprintf("01JP00000000000000000001%d1", i))}
		w.take(points[0])
		_, err = w.host.Transfer(w.ctx, mover.TransferRequest{Job: testJob, Point: points[0], Vault: w.access}, nil)
		must(t, err)
		w.take(points[1])
		began := time.Now()
		done, err := w.host.Transfer(w.ctx, mover.TransferRequest{Job: testJob, Point: points[1], Parent: points[0], Vault: w.access}, nil)
		must(t, err)
		t.Logf("%d GiB: %d bytes read, %d of them to look again, in %v", size>>30, done.Stats.BytesRead, done.Sampled, time.Since(began))
		if done.Modes["vdb"] != "changed layers" || done.Stats.BytesRead >= 1<<20 || done.Sampled == 0 {
			t.Errorf("%d GiB: by %q %d bytes were read, %d of them to look again", size>>30, done.Modes["vdb"], done.Stats.BytesRead, done.Sampled)
		}
		for _, d := range done.Disks {
			if d.Target == "vdb" && (d.DataBytes < 7<<20 || d.DataBytes > 9<<20) {
				t.Errorf("%d GiB: %d bytes are said to be data", size>>30, d.DataBytes)
			}
		}
	}
}
