package hypervisortest

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// HostSuite checks hypervisor.Host. The VMs need no guest: what a guest would
// have written is put into the layers beforehand.
type HostSuite struct {
	Host    hypervisor.Host
	Images  hypervisor.Images
	Connect Connect
	// XML makes the definition of a small VM with these disks (Target, Source
	// and Format are set) and a channel for a guest agent that nobody answers.
	// An empty uuid is left out.
	XML func(name string, uuid backstay.VMID, disks []backstay.Disk) string
	// ElementXML is XML for a VM with one disk whose element is given.
	ElementXML func(element string) func(name string, uuid backstay.VMID, disks []backstay.Disk) string
	// Secret and PrivateSecret are UUIDs of secrets that the host has.
	Secret, PrivateSecret string
	// Sources are the kinds of disk beside plain files.
	Sources []Source
	// Save shuts a running VM off with its memory saved, as its owner would.
	Save func(t *testing.T, id backstay.VMID)
}

// Run runs every check with VMs of its own.
func (s HostSuite) Run(t *testing.T) {
	for _, check := range []struct {
		rule string
		fn   func(*testing.T)
	}{
		{"a defined VM is listed with its disks", s.listed},
		{"a name or a UUID is never taken twice", s.taken},
		{"a VM that is not there is ErrNoVM, and ending it is no error", s.notThere},
		{"a running VM is not undefined", s.undefineRunning},
		{"undefining leaves the disks", s.undefineLeaves},
		{"an isolated network is made once and removed without a trace", s.isolated},
		{"a switch moves all named disks of a running VM and no other", s.switchRunning},
		{"a switch moves all named disks of a VM that is shut off", s.switchShutOff},
		{"a switch that cannot be done for one disk is done for none", s.switchNone},
		{"what goes around a switch is done right before and after it", s.switchAround},
		{"a frozen layer can be read while the VM runs on its overlay", s.readFrozen},
		{"a middle layer is merged while the VM runs", s.mergeMiddle},
		{"merging the active layer puts the VM on the base", s.mergeActive},
		{"a layer that another reads is not merged into", s.mergeLocked},
		{"a VM starts after a layer below it was merged while it was off", s.mergeOffline},
		{"a running VM goes on on a copy of its disk, and the files it leaves stay as they are", s.copyLive},
		{"a copy into a file that somebody uses changes nothing", s.copyLocked},
		{"a VM that is shut off can be given another file", s.retarget},
		{"a running VM is not given another file", s.retargetRunning},
		{"a pull serves the disks of a running VM, and its checkpoint is listed and dropped", s.pullServes},
		{"disks of every kind are pulled, with scratch images that are encrypted like them", s.pullSources},
		{"a backup job of another is neither joined nor ended", s.pullForeign},
		{"a pull is refused for a VM that is shut off, and since a checkpoint that is not there", s.pullRefused},
		{"thawing a guest that is not frozen changes nothing", s.thawNothing},
		{"a VM that found room everywhere is not stalled", s.notStalled},
		{"a watcher sees that it is connected, and each change", s.watch},
		{"a silent agent fails a ping within its timeout", s.ping},
		{"what the disks of a running VM have done for its guest is told", s.ioStats},
		{"a guest without an agent is silent, whatever is asked", s.silent},
		{"a paused VM runs on when it is resumed", s.pause},
		{"saved memory is discarded, and only that", s.saved},
		{"a VM that is shut off gets another definition, whole or not at all", s.redefine},
		{"a secret is told, unless it is private or not there", s.secrets},
		{"a secret is made once, is never overwritten, and goes", s.makeSecrets},
		{"layers of every kind of disk are switched and merged, and the disk is as it was", s.sources},
		{"the host tells its emulators and a pool with room", s.facts},
	} {
		t.Run(check.rule, check.fn)
	}
}

// world is one VM under test.
type world struct {
	HostSuite
	id    backstay.VMID
	dir   string
	disks []backstay.Disk
	serial
}

// serial counts layers.
type serial struct{ n int }

var vmCount int // tests of the suite run one after the other

// vm defines a VM with a qcow2 and a raw disk of 4 MiB that hold a pattern.
func (s HostSuite) vm(t *testing.T) *world {
	t.Helper()
	w := &world{HostSuite: s, dir: t.TempDir()}
	must(t, os.Chmod(w.dir, 0o755))
	for i, format := range []string{"qcow2", "raw"} {
		d := backstay.Disk{Target: []backstay.DiskTarget{"vda", "vdb"}[i], Format: format, Source: filepath.Join(w.dir, fmt.Sprintf("disk%d.%s", i, format))}
		must(t, s.Images.Create(testContext(t), d.Source, format, 4*mib))
		s.images().write(t, d.Source, format, 0, pattern(byte(i+1), 2*mib))
		w.disks = append(w.disks, d)
	}
	vmCount++
	id, err := s.Host.Define(testContext(t), s.XML(fmt.Sprintf("suite-%d-%d", os.Getpid(), vmCount), "", w.disks))
	must(t, err)
	w.id = id
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Minute)
		defer cancel()
		_ = s.Host.Destroy(ctx, id)
		if err := s.Host.Undefine(ctx, id); err != nil {
			t.Error(err)
		}
	})
	return w
}

func (s HostSuite) images() ImagesSuite { return ImagesSuite{Images: s.Images, Connect: s.Connect} }

func (w *world) start(t *testing.T) {
	t.Helper()
	must(t, w.Host.Start(testContext(t), w.id))
}

func (w *world) stop(t *testing.T) {
	t.Helper()
	must(t, w.Host.Destroy(testContext(t), w.id))
}

func (w *world) domain(t *testing.T) hypervisor.Domain {
	t.Helper()
	d, err := w.Host.Domain(testContext(t), w.id)
	must(t, err)
	return d
}

func (w *world) source(t *testing.T, target backstay.DiskTarget) (path, format string) {
	t.Helper()
	for _, d := range w.domain(t).VM.Disks {
		if d.Target == target {
			return d.Source, d.Format
		}
	}
	t.Fatalf("no disk %s", target)
	return "", ""
}

// layer makes an overlay for a disk, with some content as if a guest had
// written it already.
func (w *world) layer(t *testing.T, target backstay.DiskTarget, off int64, content []byte) hypervisor.Switch {
	t.Helper()
	source, format := w.source(t, target)
	w.n++
	path := filepath.Join(w.dir, fmt.Sprintf("%s.layer%d", target, w.n))
	must(t, w.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: path, Backing: hypervisor.Plain(source, format)}))
	if content != nil { // alone: what lies below is locked by the running VM
		w.images().with(t, path, hypervisor.ExportOptions{Format: "qcow2", Writable: true, Alone: true}, func(d Device) {
			_, err := d.WriteAt(content, off)
			must(t, err)
			must(t, d.Flush())
		})
	}
	return hypervisor.Switch{Target: target, Overlay: path}
}

func (w *world) switchTo(t *testing.T, switches ...hypervisor.Switch) {
	t.Helper()
	_, err := w.Host.SwitchAll(testContext(t), w.id, switches, hypervisor.SwitchOptions{})
	must(t, err)
}

func (w *world) wantChain(t *testing.T, target backstay.DiskTarget, want ...string) {
	t.Helper()
	d := w.domain(t)
	if got := d.Chains[target]; !reflect.DeepEqual(got, want) {
		t.Errorf("chain of %s is\n%v, want\n%v", target, got, want)
	}
	if !strings.Contains(d.InactiveXML, "'"+want[0]+"'") && !strings.Contains(d.InactiveXML, `"`+want[0]+`"`) {
		t.Errorf("the persistent definition does not name %s", want[0])
	}
}

func (s HostSuite) listed(t *testing.T) {
	w := s.vm(t)
	vms, err := s.Host.VMs(testContext(t))
	must(t, err)
	i := slices.IndexFunc(vms, func(vm backstay.VM) bool { return vm.ID == w.id })
	if i < 0 {
		t.Fatalf("VM %s is not in %v", w.id, vms)
	}
	vm := vms[i]
	if vm.State != backstay.VMShutOff || vm.Firmware != backstay.BIOS || vm.Reason != "" || vm.Host != "" || len(vm.Possible()) != 2 {
		t.Errorf("VM is %+v", vm)
	}
	for i, d := range vm.Possible() {
		if want := w.disks[i]; d.Target != want.Target || d.Source != want.Source || d.Format != want.Format || d.Size != 4*mib || d.Reason != "" || d.Device != "disk" {
			t.Errorf("disk is %+v", d)
		}
	}
	w.start(t)
	d := w.domain(t)
	if d.VM.State != backstay.VMRunning || d.LiveXML == "" || d.InactiveXML == "" {
		t.Errorf("running VM is %+v", d.VM)
	}
}

func (s HostSuite) taken(t *testing.T) {
	w := s.vm(t)
	name := w.domain(t).VM.Name
	_, err := s.Host.Define(testContext(t), s.XML(name, "", w.disks))
	wantError(t, err, hypervisor.ErrExists)
	_, err = s.Host.Define(testContext(t), s.XML(name+"-other", w.id, w.disks))
	wantError(t, err, hypervisor.ErrExists)
	_, err = s.Host.Define(testContext(t), s.XML(name, w.id, w.disks))
	wantError(t, err, hypervisor.ErrExists)
}

func (s HostSuite) notThere(t *testing.T) {
	const nobody = backstay.VMID("00000000-0000-4000-8000-00000000dead")
	ctx := testContext(t)
	_, err := s.Host.Domain(ctx, nobody)
	wantError(t, err, hypervisor.ErrNoVM)
	wantError(t, s.Host.Start(ctx, nobody), hypervisor.ErrNoVM)
	_, err = s.Host.SwitchAll(ctx, nobody, nil, hypervisor.SwitchOptions{})
	wantError(t, err, hypervisor.ErrNoVM)
	_, err = s.Host.Thaw(ctx, nobody)
	wantError(t, err, hypervisor.ErrNoVM)
	must(t, s.Host.Destroy(ctx, nobody))
	must(t, s.Host.Undefine(ctx, nobody))
	w := s.vm(t)
	must(t, s.Host.Destroy(ctx, w.id))
}

func (s HostSuite) undefineRunning(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	if err := s.Host.Undefine(testContext(t), w.id); err == nil {
		t.Error("a running VM was undefined")
	}
	if d := w.domain(t); d.VM.State != backstay.VMRunning || d.VM.Reason != "" {
		t.Errorf("VM is %+v", d.VM)
	}
}

func (s HostSuite) undefineLeaves(t *testing.T) {
	w := s.vm(t)
	must(t, s.Host.Undefine(testContext(t), w.id))
	for _, d := range w.disks {
		if _, err := os.Stat(d.Source); err != nil {
			t.Error(err)
		}
	}
	_, err := s.Host.Domain(testContext(t), w.id)
	wantError(t, err, hypervisor.ErrNoVM)
}

func (s HostSuite) switchRunning(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	a1, b1 := w.layer(t, "vda", 0, nil), w.layer(t, "vdb", 0, nil)
	w.switchTo(t, a1, b1)
	w.wantChain(t, "vda", a1.Overlay, w.disks[0].Source)
	w.wantChain(t, "vdb", b1.Overlay, w.disks[1].Source)
	a2 := w.layer(t, "vda", 0, nil)
	w.switchTo(t, a2)
	w.wantChain(t, "vda", a2.Overlay, a1.Overlay, w.disks[0].Source)
	w.wantChain(t, "vdb", b1.Overlay, w.disks[1].Source)
	w.stop(t)
	w.wantChain(t, "vda", a2.Overlay, a1.Overlay, w.disks[0].Source)
	w.start(t)
	w.wantChain(t, "vda", a2.Overlay, a1.Overlay, w.disks[0].Source)
}

func (s HostSuite) switchShutOff(t *testing.T) {
	w := s.vm(t)
	a1, b1 := w.layer(t, "vda", 0, nil), w.layer(t, "vdb", 0, nil)
	w.switchTo(t, a1, b1)
	w.wantChain(t, "vda", a1.Overlay, w.disks[0].Source)
	w.wantChain(t, "vdb", b1.Overlay, w.disks[1].Source)
	w.start(t)
	w.wantChain(t, "vdb", b1.Overlay, w.disks[1].Source)
}

func (s HostSuite) switchNone(t *testing.T) {
	for _, running := range []bool{false, true} {
		w := s.vm(t)
		if running {
			w.start(t)
		}
		good := w.layer(t, "vda", 0, nil)
		stranger := filepath.Join(w.dir, "stranger")
		must(t, s.Images.CreateOverlay(testContext(t), hypervisor.Overlay{Path: stranger, Backing: hypervisor.Plain(w.disks[0].Source, "qcow2")}))
		for _, bad := range []hypervisor.Switch{
			{Target: "vdb", Overlay: filepath.Join(w.dir, "missing")},
			{Target: "vdb", Overlay: stranger}, // stands on another disk's layer
			{Target: "vdz", Overlay: good.Overlay},
		} {
			_, err := s.Host.SwitchAll(testContext(t), w.id, []hypervisor.Switch{good, bad}, hypervisor.SwitchOptions{})
			if err == nil {
				t.Errorf("switch to %v was done", bad)
			}
			w.wantChain(t, "vda", w.disks[0].Source)
			w.wantChain(t, "vdb", w.disks[1].Source)
		}
	}
}

func (s HostSuite) readFrozen(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	w.switchTo(t, w.layer(t, "vda", 0, nil), w.layer(t, "vdb", 0, nil))
	for i, d := range w.disks {
		s.images().expect(t, d.Source, hypervisor.ExportOptions{Format: d.Format}, 0, pattern(byte(i+1), 2*mib))
		_, err := s.Images.Allocated(testContext(t), hypervisor.Plain(d.Source, d.Format))
		must(t, err)
	}
	active, _ := w.source(t, "vda")
	_, err := s.Images.Export(testContext(t), active, hypervisor.ExportOptions{Format: "qcow2", Writable: true})
	wantError(t, err, hypervisor.ErrLocked)
}

// stack puts three layers on vda: each holds one MiB of its own.
func (w *world) stack(t *testing.T) (layers []string, want []byte) {
	t.Helper()
	want = append(pattern(1, 2*mib), make([]byte, 2*mib)...)
	for i := range int64(3) {
		content := pattern(byte(0x10+i), mib)
		copy(want[i*mib/2:], content)
		l := w.layer(t, "vda", i*mib/2, content)
		w.switchTo(t, l)
		layers = append(layers, l.Overlay)
	}
	return layers, want
}

func (s HostSuite) mergeMiddle(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	l, want := w.stack(t)
	must(t, s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: l[1], Base: w.disks[0].Source}, func(int64, int64) {}))
	w.wantChain(t, "vda", l[2], w.disks[0].Source)
	must(t, os.Remove(l[0]))
	must(t, os.Remove(l[1]))
	w.stop(t)
	w.start(t)
	w.wantChain(t, "vda", l[2], w.disks[0].Source)
	w.stop(t)
	s.images().expect(t, l[2], hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
}

func (s HostSuite) mergeActive(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	l, want := w.stack(t)
	must(t, s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: l[2], Base: w.disks[0].Source}, nil))
	w.wantChain(t, "vda", w.disks[0].Source)
	for _, file := range l {
		must(t, os.Remove(file))
	}
	w.switchTo(t, w.layer(t, "vda", 0, nil)) // it can be protected again
	w.stop(t)
	w.start(t)
	w.stop(t)
	s.images().expect(t, w.disks[0].Source, hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
}

func (s HostSuite) mergeLocked(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	l, _ := w.stack(t)
	s.images().with(t, w.disks[0].Source, hypervisor.ExportOptions{Format: "qcow2"}, func(d Device) {
		err := s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: l[0], Base: w.disks[0].Source}, nil)
		wantError(t, err, hypervisor.ErrLocked)
		expectDevice(t, d, 0, pattern(1, 2*mib))
	})
	w.wantChain(t, "vda", l[2], l[1], l[0], w.disks[0].Source)
	if err := s.Host.MergeLive(testContext(t), w.id, hypervisor.Merge{Target: "vda", Top: w.disks[0].Source, Base: l[0]}, nil); err == nil {
		t.Error("a layer was merged upwards")
	}
}

func (s HostSuite) mergeOffline(t *testing.T) {
	for _, running := range []bool{false, true} {
		w := s.vm(t)
		if running { // switches of a running VM leave other traces in its definition
			w.start(t)
		}
		l, want := w.stack(t)
		w.stop(t)
		must(t, s.Images.Commit(testContext(t), hypervisor.Plain(l[0], "qcow2"), hypervisor.CommitOptions{}))
		must(t, s.Images.Rebase(testContext(t), hypervisor.Plain(l[1], "qcow2"), hypervisor.Plain(w.disks[0].Source, "qcow2")))
		must(t, os.Remove(l[0]))
		w.start(t)
		w.wantChain(t, "vda", l[2], l[1], w.disks[0].Source)
		w.stop(t)
		s.images().expect(t, l[2], hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
	}
}

func (s HostSuite) copyLive(t *testing.T) {
	for _, format := range []string{"qcow2", "raw"} {
		w := s.vm(t)
		w.start(t)
		l, want := w.stack(t)
		to := filepath.Join(w.dir, "copy."+format)
		must(t, s.Images.Create(testContext(t), to, format, 4*mib))
		c := hypervisor.Copy{Target: "vda", To: hypervisor.Plain(to, format), Throttle: func() int64 { return 512 << 20 }}
		must(t, s.Host.CopyLive(testContext(t), w.id, c, nil))
		w.wantChain(t, "vda", to)
		must(t, s.Host.CopyLive(testContext(t), w.id, c, nil)) // its answer was lost
		w.wantChain(t, "vda", to)
		w.wantChain(t, "vdb", w.disks[1].Source)
		s.images().expect(t, l[2], hypervisor.ExportOptions{Format: "qcow2"}, 0, want)
		w.stop(t)
		w.wantChain(t, "vda", to)
		for _, file := range l {
			must(t, os.Remove(file))
		}
		w.start(t)
		w.wantChain(t, "vda", to)
		w.stop(t)
		s.images().expect(t, to, hypervisor.ExportOptions{Format: format}, 0, want)
		if err := s.Host.CopyLive(testContext(t), w.id, c, nil); err == nil {
			t.Error("a disk of a VM that is off was copied")
		}
	}
}

func (s HostSuite) copyLocked(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	to := filepath.Join(w.dir, "copy")
	must(t, s.Images.Create(testContext(t), to, "qcow2", 4*mib))
	s.images().with(t, to, hypervisor.ExportOptions{Format: "qcow2", Writable: true}, func(Device) {
		if err := s.Host.CopyLive(testContext(t), w.id, hypervisor.Copy{Target: "vda", To: hypervisor.Plain(to, "qcow2")}, nil); err == nil {
			t.Error("the disk was copied into a file that is in use")
		}
	})
	w.wantChain(t, "vda", w.disks[0].Source)
	w.stop(t)
	w.wantChain(t, "vda", w.disks[0].Source)
}

func (s HostSuite) retarget(t *testing.T) {
	w := s.vm(t)
	l, _ := w.stack(t)
	other := filepath.Join(w.dir, "other.raw")
	must(t, s.Images.Create(testContext(t), other, "raw", 4*mib))
	must(t, s.Host.Retarget(testContext(t), w.id, "vda", hypervisor.Source{Image: hypervisor.Plain(other, "raw")}))
	for _, file := range l {
		must(t, os.Remove(file))
	}
	w.wantChain(t, "vda", other)
	w.start(t)
	w.wantChain(t, "vda", other)
	w.wantChain(t, "vdb", w.disks[1].Source)
}

func (s HostSuite) retargetRunning(t *testing.T) {
	w := s.vm(t)
	w.start(t)
	if err := s.Host.Retarget(testContext(t), w.id, "vda", hypervisor.Source{Image: hypervisor.Plain(w.disks[1].Source, "raw")}); err == nil {
		t.Error("a running VM was retargeted")
	}
	w.wantChain(t, "vda", w.disks[0].Source)
}

func (s HostSuite) thawNothing(t *testing.T) {
	w := s.vm(t)
	was, err := s.Host.Thaw(testContext(t), w.id)
	must(t, err)
	if was != 0 {
		t.Errorf("a guest that is off had %d frozen file systems", was)
	}
}

func (s HostSuite) watch(t *testing.T) {
	ctx, cancel := context.WithCancel(testContext(t))
	events := make(chan hypervisor.Event, 100)
	ended := make(chan error, 1)
	go func() { ended <- s.Host.Watch(ctx, func(e hypervisor.Event) { events <- e }) }()
	wait := func(want hypervisor.Event) {
		t.Helper()
		for {
			select {
			case e := <-events:
				if e == want {
					return
				}
			case <-testContext(t).Done():
				t.Fatalf("no event %v", want)
			}
		}
	}
	wait(hypervisor.Event{Kind: hypervisor.EventUp})
	w := s.vm(t)
	wait(hypervisor.Event{Kind: hypervisor.EventChanged, VM: w.id})
	w.start(t)
	wait(hypervisor.Event{Kind: hypervisor.EventChanged, VM: w.id})
	cancel()
	wantError(t, <-ended, context.Canceled)
}

func (s HostSuite) ping(t *testing.T) {
	w := s.vm(t)
	if err := s.Host.PingAgent(testContext(t), w.id, time.Second); err == nil {
		t.Error("the agent of a VM that is off answered")
	}
}

func (s HostSuite) facts(t *testing.T) {
	f, err := s.Host.Facts(testContext(t))
	must(t, err)
	if len(f.Emulators) == 0 || len(f.Emulators[0].Machines) == 0 || f.Hypervisor == "" {
		t.Errorf("facts are %+v", f)
	}
	if !slices.ContainsFunc(f.Pools, func(p backstay.Pool) bool { return p.Name == "default" && p.Available > 0 }) {
		t.Errorf("pools are %+v", f.Pools)
	}
}
