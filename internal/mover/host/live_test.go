package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// liveWorld is a testWorld with a point in its vault and exports.
type liveWorld struct {
	*testWorld
	exports *live.Inside
	r       mover.StageRequest
	want    map[backstay.DiskTarget][]byte // of the point
}

// servedByTest is a point as an export reads it.
type servedByTest struct{ *vault.Point }

func (p servedByTest) Disk(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
	return p.Point.Disk(ctx, target)
}
func (servedByTest) Close() error { return nil }

func newLiveWorld(t *testing.T) *liveWorld {
	t.Helper()
	w := &liveWorld{testWorld: newTestWorld(t), want: map[backstay.DiskTarget][]byte{}}
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		w.want[target] = w.content(sourceVM, target)
	}
	w.exports = &live.Inside{Open: func(ctx context.Context, o live.Order) (live.Source, error) {
		v, err := w.openVault(ctx, o.Vault)
		if err != nil {
			return nil, err
		}
		p, err := v.OpenPoint(ctx, o.Point)
		return servedByTest{p}, err
	}}
	w.hv.Remote = func(ctx context.Context, location string) (io.ReaderAt, int64, func() error, error) {
		n, ok := hypervisor.ParseNBD(location)
		if !ok {
			return nil, 0, nil, fmt.Errorf("%s is no export", location)
		}
		c, err := nbd.Dial(ctx, n.Socket, n.Export, nbd.Options{})
		if err != nil {
			return nil, 0, nil, err
		}
		return c, c.Size(), c.Close, nil
	}
	w.host.exports = w.exports
	w.r = w.backup(backstay.VaultTier)
	w.r.Plan.Live, w.r.Plan.Kind = true, backstay.CreateVM
	for i := range w.r.Plan.Disks {
		w.r.Plan.Disks[i].Format = "qcow2"
		w.r.Plan.Disks[i].Path = strings.TrimSuffix(w.r.Plan.Disks[i].Path, filepath.Ext(w.r.Plan.Disks[i].Path)) + ".qcow2"
	}
	t.Cleanup(func() { w.exports.Kill(w.folder()) })
	return w
}

func (w *liveWorld) folder() string {
	return filepath.Join(w.path("s"), "live-"+strings.ToLower(string(w.r.Job)))
}

// reborn is a mover that was killed and started again.
func (w *liveWorld) reborn() {
	w.t.Helper()
	w.restart()
	w.host.exports = w.exports
}

// run makes the calls of the whole restore; written is called when the VM runs.
func (w *liveWorld) run(ctx context.Context, written func()) error {
	if _, err := w.host.Stage(ctx, w.r, nil); err != nil {
		return err
	}
	if _, err := w.host.Define(ctx, w.r); err != nil {
		return err
	}
	if _, err := w.host.Start(ctx, w.r); err != nil {
		return err
	}
	written()
	return w.host.CopyBehind(ctx, w.r, nil)
}

// standsAlone checks that the restored VM is like any other: its disks hold all
// that the point holds and what its guest wrote, and nothing of the restore stays.
func (w *liveWorld) standsAlone(mark []byte) {
	w.t.Helper()
	domain, err := w.hv.Domain(w.t.Context(), copyVM)
	must(w.t, err)
	if domain.VM.State != backstay.VMRunning {
		w.t.Errorf("the VM is %s", domain.VM.State)
	}
	if strings.Contains(domain.InactiveXML, "error_policy") {
		w.t.Errorf("the definition has policies that its owner did not set: %s", domain.InactiveXML)
	}
	for target, chain := range domain.Chains {
		if len(chain) != 1 {
			w.t.Errorf("disk %s stands on %v", target, chain[1:])
		}
		want := slices.Clone(w.want[target])
		if target == "vda" {
			copy(want, mark)
		}
		if !bytes.Equal(w.content(copyVM, target), want) {
			w.t.Errorf("disk %s does not hold the point and what the guest wrote", target)
		}
	}
	w.nothingServed()
}

// nothingServed checks that nothing of an export is left.
func (w *liveWorld) nothingServed() {
	w.t.Helper()
	for _, folder := range []string{w.path("s"), w.path("state/live")} {
		_ = filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
			if err == nil && (!e.IsDir() || strings.HasPrefix(e.Name(), "live-")) {
				w.t.Errorf("%s is left", path)
			}
			return nil
		})
	}
	if w.exports.Running(w.folder()) {
		w.t.Error("the export still runs")
	}
}

var errLifeOver = errors.New("the process ended")

// TestALiveRestoreGoesOnFromWhereverItWasCutOff: before each change that is made
// to the hypervisor the mover ends; what its guest wrote by then is kept.
func TestALiveRestoreGoesOnFromWhereverItWasCutOff(t *testing.T) {
	mark := bytes.Repeat([]byte("written"), 600)
	for n := 1; ; n++ {
		w := newLiveWorld(t)
		calls, ended := 0, false
		life, end := context.WithCancelCause(t.Context())
		w.hv.Hook = func(call string) error {
			if slices.Contains([]string{"domain", "stalled"}, call) && !ended {
				return nil
			}
			if calls++; calls == n {
				ended = true
				end(errLifeOver)
			}
			if ended {
				return errLifeOver
			}
			return nil
		}
		wrote := func() { must(t, w.hv.WriteGuest(copyVM, "vda", 0, mark)) }
		err := w.run(life, wrote)
		end(nil)
		if err == nil {
			if n < 6 {
				t.Errorf("only %d changes were seen", n)
			}
			w.standsAlone(mark)
			return
		}
		w.hv.Hook = nil
		w.reborn()
		if _, err := w.host.Sweep(t.Context(), nil); err != nil { // as if the server knew of no job
			t.Error(err)
		}
		if err := w.run(t.Context(), wrote); err != nil {
			t.Fatalf("cut off at change %d, and then: %v", n, err)
		}
		w.standsAlone(mark)
		if t.Failed() {
			t.Fatalf("cut off at change %d", n)
		}
	}
}

// TestALiveVMWaitsForItsExportByWhateverHandItWasStarted, and an export that is
// gone is started again, also by a mover that was started since.
func TestALiveVMWaitsForItsExportByWhateverHandItWasStarted(t *testing.T) {
	w := newLiveWorld(t)
	ctx := t.Context()
	_, err := w.host.Stage(ctx, w.r, nil)
	must(t, err)
	_, err = w.host.Define(ctx, w.r)
	must(t, err)
	_, err = w.host.Start(ctx, w.r)
	must(t, err)
	waits := func(want bool, when string) {
		t.Helper()
		for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
			if w.hv.Waits(copyVM, target) != want {
				t.Errorf("%s: disk %s waits: %v", when, target, !want)
			}
		}
	}
	waits(true, "started by us")
	must(t, w.hv.Destroy(ctx, copyVM))
	must(t, w.hv.Start(ctx, copyVM))
	waits(false, "started by its user")
	said := map[backstay.JobID]string{}
	w.host.tendAll(ctx, true, said)
	waits(true, "tended")

	w.hv.SetStalled(copyVM, true)
	w.host.tendAll(ctx, false, said)
	if stalled, err := w.hv.Stalled(ctx, copyVM); err != nil || stalled {
		t.Errorf("it still stands: %v %v", stalled, err)
	}

	w.exports.Kill(w.folder())
	must(t, durable.Remove(live.Socket(w.folder()))) // as after the machine was started again
	w.reborn()
	w.host.tendAll(ctx, true, said)
	if !w.exports.Running(w.folder()) || len(said) > 0 {
		t.Errorf("the export does not run: %v", said)
	}
	must(t, w.host.CopyBehind(ctx, w.r, nil))
	w.standsAlone(nil)
}

// TestAVMThatIsRestoredLiveIsNotBackedUp until its disks are its own.
func TestAVMThatIsRestoredLiveIsNotBackedUp(t *testing.T) {
	w := newLiveWorld(t)
	ctx := t.Context()
	err := w.run(ctx, func() {
		_, err := w.host.Prepare(ctx, mover.PrepareRequest{Job: testJob, Point: pointID + "2", VM: copyVM, Disks: []backstay.DiskTarget{"vda"}})
		if !backstay.IsCode(err, backstay.CodeConflict) {
			t.Errorf("prepare: %v", err)
		}
		vms, err := w.host.VMs(ctx)
		must(t, err)
		for _, vm := range vms {
			if (vm.ID == copyVM) != strings.Contains(vm.Reason, "restored live") {
				t.Errorf("VM %s: %q", vm.Name, vm.Reason)
			}
		}
	})
	must(t, err)
	vms, err := w.host.VMs(ctx)
	must(t, err)
	for _, vm := range vms {
		if vm.Reason != "" {
			t.Errorf("VM %s: %q", vm.Name, vm.Reason)
		}
	}
}

// TestAnAbandonedLiveRestoreLeavesNothing, wherever it is.
func TestAnAbandonedLiveRestoreLeavesNothing(t *testing.T) {
	for steps := range 4 {
		w := newLiveWorld(t)
		ctx := t.Context()
		for _, step := range []func() error{
			func() error { _, err := w.host.Stage(ctx, w.r, nil); return err },
			func() error { _, err := w.host.Define(ctx, w.r); return err },
			func() error { _, err := w.host.Start(ctx, w.r); return err },
			func() error { return w.host.Hurry(ctx, w.r.Job) },
		}[:steps+1] {
			must(t, step())
		}
		must(t, w.host.Abandon(ctx, w.r))
		if left := w.left(); len(left) > 0 {
			t.Errorf("after %d steps: left %v", steps+1, left)
		}
		if _, err := w.hv.Domain(ctx, copyVM); !errors.Is(err, hypervisor.ErrNoVM) {
			t.Errorf("after %d steps: the VM is there: %v", steps+1, err)
		}
		w.nothingServed()
	}
}

// TestACopyThatIsCutOffLeavesTheVMAsItRuns: who cancels the call throws nothing away.
func TestACopyThatIsCutOffLeavesTheVMAsItRuns(t *testing.T) {
	w := newLiveWorld(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	must(t, w.run(t.Context(), func() {
		must(t, w.hv.Destroy(t.Context(), copyVM)) // so that the copy waits
		err := w.host.CopyBehind(ctx, w.r, func(r mover.Report) {
			if strings.Contains(r.Note, "shut off") {
				cancel(backstay.ErrStopping)
			}
		})
		if !errors.Is(err, backstay.ErrStopping) {
			t.Errorf("%v", err)
		}
		if !w.exports.Running(w.folder()) {
			t.Error("the export ended")
		}
		must(t, w.hv.Start(t.Context(), copyVM))
	}))
	w.standsAlone(nil)
}

// TestAVMThatEndedBeforeItsCopyWasDurableReadsTheVaultAgain: an image that names
// nothing below it proves nothing until it was flushed.
func TestAVMThatEndedBeforeItsCopyWasDurableReadsTheVaultAgain(t *testing.T) {
	w := newLiveWorld(t)
	ctx := t.Context()
	must(t, w.run(ctx, func() {
		must(t, w.hv.CopyIn(ctx, copyVM, hypervisor.CopyIn{Target: "vda"}, nil)) // and the mover ended before it noted that
		must(t, w.hv.Destroy(ctx, copyVM))
		w.host.tendAll(ctx, true, map[backstay.JobID]string{})
		domain, err := w.hv.Domain(ctx, copyVM)
		must(t, err)
		if chain := domain.Chains["vda"]; len(chain) != 2 {
			t.Errorf("disk vda stands on %v", chain[1:])
		}
		must(t, w.hv.Start(ctx, copyVM))
	}))
	w.standsAlone(nil)
}
