package host

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

const (
	replaceJob = backstay.JobID("01JB0000000000000000000005")
	undoJob    = backstay.JobID("01JB0000000000000000000006")
	safetyID   = backstay.PointID("01JP0000000000000000000005")
	laterID    = backstay.PointID("01JP0000000000000000000006")
)

// errEnded stands for the end of the process.
var errEnded = errors.New("the process ended here")

// again is a new process on the same host, at a later time.
func (w *testWorld) again(later time.Duration) {
	w.t.Helper()
	w.hv.Hook = func(string) error { return nil }
	record.CutOff = func(string) error { return nil }
	cutOff = func(string) error { return nil }
	var err error
	w.host, err = New(Options{
		Hypervisor: seenHost{w.hv, w}, Images: w.hv, Keyring: keyfile.New(w.path("keys")), StateDir: w.path("state"), SocketDir: w.path("s"),
		OpenVault: w.openVault, Name: "h1", Log: slog.New(slog.NewTextHandler(w.logs, nil)),
		Now: func() time.Time { return time.Now().Add(later) },
	})
	must(w.t, err)
}

// endAt lets the process end before its n-th change of anything.
func (w *testWorld) endAt(n int) (ended *bool) {
	ended = new(bool)
	step := func(string) error {
		if n--; n < 0 {
			*ended = true
		}
		if *ended {
			return errEnded
		}
		return nil
	}
	w.hv.Hook, record.CutOff, cutOff = step, step, step
	w.t.Cleanup(func() {
		record.CutOff = func(string) error { return nil }
		cutOff = func(string) error { return nil }
	})
	return ended
}

// disks is the content of all disks of the source VM, one after the other.
func (w *testWorld) disks() []byte {
	return append(w.content(sourceVM, "vda"), w.content(sourceVM, "vdb")...)
}

// toReplace is a VM that is shut off, with a point, something written since, and a
// safety point of that. It returns the content at both.
func toReplace(t *testing.T, tier backstay.Tier) (w *testWorld, r mover.StageRequest, point, present []byte) {
	t.Helper()
	w = newTestWorld(t)
	point = w.disks()
	taken := w.backup(tier).Plan // for its vault and its point
	for i, target := range []backstay.DiskTarget{"vda", "vdb"} {
		must(t, w.hv.WriteGuest(sourceVM, target, int64(8192*(i+1)), bytes.Repeat([]byte{0xa0 + byte(i)}, 12288)))
	}
	present = w.disks()
	must(t, w.hv.Destroy(t.Context(), sourceVM))
	w.point(safetyID)
	vms, err := w.host.VMs(t.Context())
	must(t, err)
	plan := movertest.ReplacePlan(vms[0], mover.Taken{Point: taken.Point, Shape: vms[0], Disks: []backstay.PointDisk{
		{Target: "vda", Size: testSize, Included: true}, {Target: "vdb", Size: testSize, Included: true},
	}})
	plan.Tier, plan.SafetyPoint, plan.KeepOld = tier, safetyID, backstay.Duration(time.Hour)
	for i := range plan.Disks {
		d := &plan.Disks[i]
		d.Path = filepath.Join(filepath.Dir(d.Old), "new-"+string(d.Target)+".qcow2")
		d.Difference = tier == backstay.VaultTier && d.Target == "vda" // and vdb as a whole file
	}
	return w, mover.StageRequest{Job: replaceJob, Plan: plan, Vault: &w.access}, point, present
}

// point takes a point of the VM, which is shut off.
func (w *testWorld) point(id backstay.PointID) {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.host.Prepare(ctx, mover.PrepareRequest{Job: testJob, Point: id, VM: sourceVM, Disks: []backstay.DiskTarget{"vda", "vdb"}, Consistency: backstay.CrashConsistent})
	must(w.t, err)
	_, err = w.host.Take(ctx, mover.TakeRequest{Job: testJob, Point: id, VM: sourceVM, Consistency: backstay.CrashConsistent, Time: instant})
	must(w.t, err)
}

func replaceNow(ctx context.Context, w *testWorld, r mover.StageRequest) error {
	if _, err := w.host.StageReplace(ctx, r, nil); err != nil {
		return err
	}
	_, err := w.host.SwitchDisks(ctx, r)
	return err
}

func undoNow(ctx context.Context, w *testWorld, r mover.StageRequest) error {
	_, err := w.host.Undo(ctx, mover.UndoRequest{Job: r.Job, By: undoJob, Plan: r.Plan})
	return err
}

// forgotten lists the files beside the disks that no chain, no record and no owner needs.
func (w *testWorld) forgotten() []string {
	w.t.Helper()
	b, err := w.hv.Domain(w.t.Context(), sourceVM)
	must(w.t, err)
	known := map[string]bool{w.path("vms/web01.raw"): true, w.path("vms/data.qcow2"): true}
	for _, chain := range b.Chains {
		for _, file := range chain {
			known[file] = true
		}
	}
	_ = filepath.WalkDir(w.path("vms/.backstay/layers"), func(path string, e fs.DirEntry, err error) error {
		if err == nil && !e.IsDir() {
			var l record.Layer
			must(w.t, record.ReadJSON(path, &l))
			known[l.File] = true
			for _, u := range l.Users {
				if u.Kind == record.UserRestore {
					w.t.Errorf("layer %s is still held by job %s", l.File, u.Job)
				}
			}
		}
		return nil
	})
	var left []string
	entries, err := os.ReadDir(w.path("vms"))
	must(w.t, err)
	for _, e := range entries {
		if !e.IsDir() && !known[w.path("vms/"+e.Name())] {
			left = append(left, e.Name())
		}
	}
	return left
}

// TestAReplaceCutOffAnywhereLeavesTheVMWhollyOldOrWhollyNew, and the job's next life
// finishes it, or a sweep without the job leaves nothing half done.
func TestAReplaceCutOffAnywhereLeavesTheVMWhollyOldOrWhollyNew(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		t.Run(string(tier), func(t *testing.T) {
			for n := 0; ; n++ {
				w, r, point, present := toReplace(t, tier)
				ended := w.endAt(n)
				err := replaceNow(t.Context(), w, r)
				w.again(0)
				if !*ended {
					must(t, err)
					break
				}
				if got := w.disks(); !bytes.Equal(got, point) && !bytes.Equal(got, present) {
					t.Fatalf("cut off before change %d the VM is neither old nor new", n)
				}
				if n%2 == 0 {
					must(t, replaceNow(t.Context(), w, r))
					if !bytes.Equal(w.disks(), point) {
						t.Fatalf("cut off before change %d: the next life did not finish", n)
					}
					continue
				}
				_, err = w.host.Sweep(t.Context(), nil)
				must(t, err)
				if got := w.disks(); !bytes.Equal(got, point) && !bytes.Equal(got, present) {
					t.Fatalf("cut off before change %d and swept the VM is neither old nor new", n)
				}
				if left := w.forgotten(); len(left) > 0 {
					t.Fatalf("cut off before change %d and swept: %v are left", n, left)
				}
				must(t, w.hv.Start(t.Context(), sourceVM))
			}
		})
	}
}

// TestAnUndoCutOffAnywhereLeavesTheVMWhollyOldOrWhollyNew likewise.
func TestAnUndoCutOffAnywhereLeavesTheVMWhollyOldOrWhollyNew(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		t.Run(string(tier), func(t *testing.T) {
			for n := 0; ; n++ {
				w, r, _, present := toReplace(t, tier)
				must(t, replaceNow(t.Context(), w, r))
				must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte{0xee}, 4096)))
				since := w.disks()
				w.point(laterID)
				ended := w.endAt(n)
				err := undoNow(t.Context(), w, r)
				w.again(0)
				if !*ended {
					must(t, err)
					break
				}
				if got := w.disks(); !bytes.Equal(got, since) && !bytes.Equal(got, present) {
					t.Fatalf("cut off before change %d the VM is neither old nor new", n)
				}
				if n%2 == 0 {
					must(t, undoNow(t.Context(), w, r))
				} else {
					_, err = w.host.Sweep(t.Context(), nil)
					must(t, err)
				}
				got := w.disks()
				if !bytes.Equal(got, present) && (n%2 == 0 || !bytes.Equal(got, since)) {
					t.Fatalf("cut off before change %d the undo was not finished", n)
				}
				if left := w.forgotten(); len(left) > 0 {
					t.Fatalf("cut off before change %d: %v are left", n, left)
				}
				// What the guest wrote since is a point.
				if _, err := w.host.openPoint(t.Context(), laterID); err != nil {
					t.Fatal(err)
				}
			}
		})
	}
}

// TestTheNextBackupAfterAReplaceIsRight, and so is the one after its undo: the vault
// gets what the VM has, whatever the change maps told.
func TestTheNextBackupAfterAReplaceIsRight(t *testing.T) {
	w, r, point, present := toReplace(t, backstay.SnapshotTier)
	must(t, replaceNow(t.Context(), w, r))
	for i, want := range [][]byte{point, present} {
		id := backstay.PointID("01JP00000000000000000000" + string(rune('A'+i)) + "0")
		w.point(id)
		_, err := w.host.Transfer(t.Context(), mover.TransferRequest{Job: testJob, Point: id, Vault: w.access, Parent: pointID}, nil)
		must(t, err)
		v, err := w.openVault(t.Context(), w.access)
		must(t, err)
		p, err := v.OpenPoint(t.Context(), id)
		must(t, err)
		var got []byte
		for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
			image, err := p.Disk(t.Context(), target)
			must(t, err)
			data := make([]byte, testSize)
			_, err = image.ReadAt(data, 0)
			must(t, err)
			got = append(got, data...)
		}
		if !bytes.Equal(got, want) {
			t.Errorf("backup %d is not what the VM had", i)
		}
		if i == 0 {
			must(t, undoNow(t.Context(), w, r))
		}
	}
	_, err := w.host.Release(t.Context(), sourceVM, nil)
	must(t, err)
	if !bytes.Equal(w.disks(), present) {
		t.Error("the release changed what the VM has")
	}
}

// TestOldDisksGoWhenTheirTimeIsOver, and nothing that a point or the VM needs.
func TestOldDisksGoWhenTheirTimeIsOver(t *testing.T) {
	w, r, point, _ := toReplace(t, backstay.SnapshotTier)
	must(t, replaceNow(t.Context(), w, r))
	w.again(30 * time.Minute)
	removed, err := w.host.EndUndos(t.Context())
	must(t, err)
	if len(removed) > 0 {
		t.Fatalf("%v went before their time", removed)
	}
	w.again(2 * time.Hour)
	if _, err := w.host.Undo(t.Context(), mover.UndoRequest{Job: r.Job, By: undoJob, Plan: r.Plan, Look: true}); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("an undo whose time is over: %v", err)
	}
	removed, err = w.host.EndUndos(t.Context())
	must(t, err)
	if len(removed) != 2 {
		t.Errorf("%v went, and not the two old layers", removed)
	}
	if !bytes.Equal(w.disks(), point) {
		t.Error("the VM has not what it had")
	}
	for _, id := range []backstay.PointID{pointID, safetyID} {
		if _, err := w.host.openPoint(t.Context(), id); err != nil {
			t.Error(err)
		}
	}
	_, err = w.host.Release(t.Context(), sourceVM, nil)
	must(t, err)
	if !bytes.Equal(w.disks(), point) {
		t.Error("the release changed what the VM has")
	}
	if left := w.forgotten(); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
}

// TestWhatWasAddedSinceIsDetachedAndWhatWasLostReturns, and both come back as they
// were with the undo, also when the owner changed the VM meanwhile.
func TestWhatWasAddedSinceIsDetachedAndWhatWasLostReturns(t *testing.T) {
	for _, changed := range []bool{false, true} {
		w, r, _, _ := toReplace(t, backstay.SnapshotTier)
		added := w.path("vms/added.qcow2")
		must(t, w.hv.Create(t.Context(), added, "qcow2", testSize))
		d, err := w.hv.Domain(t.Context(), sourceVM)
		must(t, err)
		// vdb goes, vdc comes.
		before := strings.Replace(d.InactiveXML, `dev="vdb"`, `dev="vdc"`, 1)
		before = strings.Replace(before, d.VM.Disks[1].Source, added, 1)
		must(t, w.hv.Redefine(t.Context(), sourceVM, before))
		r.Plan.Disks[1].Action, r.Plan.Disks[1].Old = backstay.DiskReturned, ""
		r.Plan.Disks = append(r.Plan.Disks, backstay.PlannedDisk{Target: "vdc", Old: added, Action: backstay.DiskDetached})
		must(t, replaceNow(t.Context(), w, r))
		d, err = w.hv.Domain(t.Context(), sourceVM)
		must(t, err)
		if len(d.VM.Disks) != 2 || d.VM.Disks[1].Target != "vdb" {
			t.Errorf("the VM has %v", d.VM.Disks)
		}
		if _, err := os.Stat(added); err != nil {
			t.Error(err)
		}
		if changed {
			must(t, w.hv.Redefine(t.Context(), sourceVM, strings.Replace(d.InactiveXML, ">64</memory>", ">128</memory>", 1)))
		}
		must(t, undoNow(t.Context(), w, r))
		d, err = w.hv.Domain(t.Context(), sourceVM)
		must(t, err)
		if !changed && d.InactiveXML != before {
			t.Errorf("the definition is not the old one:\n%s\n%s", d.InactiveXML, before)
		}
		if changed && !strings.Contains(d.InactiveXML, ">128</memory>") {
			t.Error("what the owner changed since is lost")
		}
		if len(d.VM.Disks) != 2 || sourceOf(&d, "vdc") != added || sourceOf(&d, "vda") != r.Plan.Disks[0].Old {
			t.Errorf("the VM has %v", d.VM.Disks)
		}
	}
}

// TestAVMIsNeverSwitchedWhileItMayUseItsDisks: not while it runs, nor over memory
// that was saved.
func TestAVMIsNeverSwitchedWhileItMayUseItsDisks(t *testing.T) {
	w, r, _, present := toReplace(t, backstay.SnapshotTier)
	_, err := w.host.StageReplace(t.Context(), r, nil)
	must(t, err)
	must(t, w.hv.Start(t.Context(), sourceVM))
	if _, err := w.host.SwitchDisks(t.Context(), r); !backstay.IsCode(err, backstay.CodeNotShutOff) {
		t.Errorf("a running VM was switched: %v", err)
	}
	must(t, w.hv.Save(sourceVM))
	if _, err := w.host.SwitchDisks(t.Context(), r); !backstay.IsCode(err, backstay.CodeSavedMemory) {
		t.Errorf("a VM with saved memory was switched: %v", err)
	}
	if _, err := w.host.Stop(t.Context(), mover.StopRequest{VM: sourceVM}); !backstay.IsCode(err, backstay.CodeSavedMemory) {
		t.Errorf("saved memory without consent: %v", err)
	}
	must(t, w.host.AbandonReplace(t.Context(), r))
	if !bytes.Equal(w.disks(), present) || len(w.forgotten()) > 0 {
		t.Errorf("something is left: %v", w.forgotten())
	}
}

// TestTheFirmwareAndTheTPMAreThoseOfThePoint, and come back with the undo.
func TestTheFirmwareAndTheTPMAreThoseOfThePoint(t *testing.T) {
	w := newTestWorld(t)
	must(t, w.hv.Destroy(t.Context(), sourceVM))
	d, err := w.hv.Domain(t.Context(), sourceVM)
	must(t, err)
	nvram := w.path("hv/nvram/web01_VARS.fd")
	tpm := w.path("hv/swtpm/" + string(sourceVM) + "/tpm2/state")
	xml := strings.Replace(d.InactiveXML, "</os>", `<loader type="pflash">/code.fd</loader><nvram>`+nvram+`</nvram></os>`, 1)
	xml = strings.Replace(xml, "</devices>", `<tpm model="tpm-crb"><backend type="emulator" version="2.0"/></tpm></devices>`, 1)
	must(t, w.hv.Redefine(t.Context(), sourceVM, xml))
	state := func(text string) {
		for _, path := range []string{nvram, tpm} {
			must(t, os.MkdirAll(filepath.Dir(path), 0o700))
			must(t, os.WriteFile(path, []byte(text), 0o600))
		}
	}
	state("of the point")
	w.backup(backstay.SnapshotTier)
	state("of now")
	w.point(safetyID)
	vms, err := w.host.VMs(t.Context())
	must(t, err)
	plan := movertest.ReplacePlan(vms[0], mover.Taken{Point: pointID, Shape: vms[0], Disks: []backstay.PointDisk{{Target: "vda", Size: testSize}}})
	r := mover.StageRequest{Job: replaceJob, Plan: plan}
	sees := func(want string) {
		t.Helper()
		d, err := w.hv.Domain(t.Context(), sourceVM)
		must(t, err)
		for _, path := range []string{d.NVRAM, tpm} {
			if got, err := os.ReadFile(path); err != nil || string(got) != want {
				t.Errorf("%s is %q and not %q (%v)", path, got, want, err)
			}
		}
	}
	must(t, replaceNow(t.Context(), w, r))
	sees("of the point")
	must(t, undoNow(t.Context(), w, r))
	sees("of now")
	if left, _ := filepath.Glob(w.path("hv/*/*replaced*")); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	again := r
	again.Job = secondJob
	again.Plan.Disks = []backstay.PlannedDisk{r.Plan.Disks[0]}
	again.Plan.Disks[0].Path += ".again.qcow2"
	must(t, replaceNow(t.Context(), w, again))
	w.again(30 * 24 * time.Hour)
	_, err = w.host.EndUndos(t.Context())
	must(t, err)
	sees("of the point")
	if _, err := os.Stat(nvram); err != nil {
		t.Errorf("the firmware variables that were the owner's went with the undo's time: %v", err)
	}
	ours, _ := filepath.Glob(w.path("hv/*/*replaced*"))
	if len(ours) != 1 { // the one that the VM has now
		t.Errorf("%v are left", ours)
	}
}

// TestANewVMIsTakenBackWithItsDisks, unless somebody stands on them.
func TestANewVMIsTakenBackWithItsDisks(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	r.Plan.Kind = backstay.CreateVM
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	must(t, define(t, w, r))
	_, err = w.host.Sweep(t.Context(), nil) // the job has ended long ago
	must(t, err)
	other := backstay.VMID("99999999-1111-4111-8111-111111111111")
	_, err = w.hv.Define(t.Context(), fake.XML("other", other, backstay.Disk{Target: "vda", Source: r.Plan.Disks[0].Path, Format: r.Plan.Disks[0].Format}))
	must(t, err)
	if err := undoNow(t.Context(), w, r); !backstay.IsCode(err, backstay.CodeCannotUndo) || !strings.Contains(err.Error(), "other") {
		t.Errorf("the disk of another VM was removed: %v", err)
	}
	must(t, w.hv.Undefine(t.Context(), other))
	must(t, undoNow(t.Context(), w, r))
	if left := w.left(); len(left) > 0 {
		t.Errorf("%v are left", left)
	}
	if err := undoNow(t.Context(), w, r); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("it was taken back twice: %v", err)
	}
}
