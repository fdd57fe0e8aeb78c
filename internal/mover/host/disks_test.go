package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// disksOf is a restore of all disks of a point into the folder out/disks.
func (w *testWorld) disksOf(tier backstay.Tier) mover.StageRequest {
	w.t.Helper()
	r := w.backup(tier)
	r.Plan.Kind, r.Plan.Folder = backstay.RestoreDisks, w.path("out/disks")
	for i := range r.Plan.Disks {
		d := &r.Plan.Disks[i]
		d.Format = "qcow2"
		d.Path = filepath.Join(r.Plan.Folder, string(d.Target)+".qcow2")
	}
	return r
}

// restoreDisks does all that a job does.
func (w *testWorld) restoreDisks(r mover.StageRequest) mover.Templated {
	w.t.Helper()
	_, err := w.host.Stage(w.t.Context(), r, func(mover.Report) {})
	must(w.t, err)
	written, err := w.host.Template(w.t.Context(), r, func(mover.Report) {})
	must(w.t, err)
	return written
}

// TestRestoredDisksAreWholeAndStandOnNothing, from either tier: their content is
// the point's, the manifest has its SHA-256, and no layer is needed for them.
func TestRestoredDisksAreWholeAndStandOnNothing(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		w := newTestWorld(t)
		want := w.contents()
		r := w.disksOf(tier)
		w.changeAll(7) // the source goes on
		w.restoreDisks(r)
		data, err := os.ReadFile(filepath.Join(r.Plan.Folder, "manifest.json"))
		must(t, err)
		var m manifest
		must(t, json.Unmarshal(data, &m))
		for i, d := range r.Plan.Disks {
			sum := sha256.Sum256(want[d.Target])
			if got := w.shown(d.Path, d.Size); !bytes.Equal(got, want[d.Target]) {
				t.Errorf("%s: disk %s is not the point's", tier, d.Target)
			}
			if m.Disks[i].SHA256 != hex.EncodeToString(sum[:]) {
				t.Errorf("%s: the manifest has %+v", tier, m.Disks[i])
			}
			if info, err := w.hv.Info(t.Context(), d.Path); err != nil || info.Backing != "" {
				t.Errorf("%s: disk %s stands on %q: %v", tier, d.Target, info.Backing, err)
			}
		}
		if users := w.users(); len(users) != 0 {
			t.Errorf("%s: the layers have users left: %+v", tier, users)
		}
		if info, err := os.Stat(filepath.Join(r.Plan.Folder, "domain.xml")); err != nil || info.Mode().Perm() != 0o600 {
			t.Errorf("the definition is not for root alone: %v %v", info, err)
		}
	}
}

// TestAFolderGoesAsOne: an undo removes all that the restore made, after a sweep
// too, and neither an empty folder that was there nor what somebody put into it.
func TestAFolderGoesAsOne(t *testing.T) {
	for _, there := range []bool{false, true} {
		w := newTestWorld(t)
		r := w.disksOf(backstay.VaultTier)
		if there {
			must(t, os.Mkdir(r.Plan.Folder, 0o755))
		}
		w.restoreDisks(r)
		_, err := w.host.Sweep(t.Context(), nil)
		must(t, err)
		if there {
			must(t, os.WriteFile(filepath.Join(r.Plan.Folder, "mine"), []byte("x"), 0o600))
		}
		_, err = w.host.Undo(t.Context(), mover.UndoRequest{Job: r.Job, By: otherJobID, Plan: r.Plan})
		must(t, err)
		left, err := os.ReadDir(r.Plan.Folder)
		if !there && !errors.Is(err, os.ErrNotExist) || there && (len(left) != 1 || left[0].Name() != "mine") {
			t.Errorf("the folder was there before: %v; left is %v (%v)", there, left, err)
		}
	}
}

const otherJobID backstay.JobID = "01JB0000000000000000000OTH"

// TestAnUndoNeverRemovesWhatALaterRestoreMade: the folder was moved away by hand,
// and another restore made one of its name.
func TestAnUndoNeverRemovesWhatALaterRestoreMade(t *testing.T) {
	w := newTestWorld(t)
	first := w.disksOf(backstay.VaultTier)
	w.restoreDisks(first)
	must(t, os.Rename(first.Plan.Folder, w.path("out/moved")))
	second := first
	second.Job = otherJobID
	w.restoreDisks(second)
	_, err := w.host.Undo(t.Context(), mover.UndoRequest{Job: first.Job, By: "01JB00000000000000000UNDO1", Plan: first.Plan})
	if !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("the undo of the first: %v", err)
	}
	if !allThere([]string{second.Plan.Disks[0].Path, filepath.Join(second.Plan.Folder, "template.xml")}) {
		t.Error("what the second restore made is gone")
	}
}

// TestDisksThatAVMStandsOnAreNotTakenBack, though the VM has the UUID that the
// restore chose for it.
func TestDisksThatAVMStandsOnAreNotTakenBack(t *testing.T) {
	w := newTestWorld(t)
	r := w.disksOf(backstay.SnapshotTier)
	w.restoreDisks(r)
	deployed := w.deploy(r)
	undo := mover.UndoRequest{Job: r.Job, By: "01JB00000000000000000UNDO1", Plan: r.Plan}
	if _, err := w.host.Undo(t.Context(), undo); !backstay.IsCode(err, backstay.CodeCannotUndo) {
		t.Errorf("the undo of disks in use: %v", err)
	}
	_, err := w.host.Undo(t.Context(), mover.UndoRequest{Job: deployed.Job, By: "01JB00000000000000000UNDO2", Plan: deployed.Plan})
	must(t, err)
	if !allThere([]string{r.Plan.Disks[0].Path, filepath.Join(r.Plan.Folder, "template.xml")}) {
		t.Error("the disks went with the VM that was made of them")
	}
	w.deploy(r) // and it can be made again
}

// deploy makes a VM of restored disks under another name.
func (w *testWorld) deploy(r mover.StageRequest) mover.DeployRequest {
	w.t.Helper()
	d := mover.DeployRequest{Job: "01JB0000000000000000DEPLOY", Folder: r.Plan.Folder, Set: map[string]string{"name": "deployed", "autostart": "true"}}
	described, err := w.host.Describe(w.t.Context(), d)
	must(w.t, err)
	d.Plan = deployPlan(described)
	must(w.t, w.host.Deploy(w.t.Context(), d))
	return d
}

func deployPlan(d backstay.Deployment) backstay.RestorePlan {
	plan := backstay.RestorePlan{Kind: backstay.DeployPlan, Point: d.Point, Folder: d.Folder, Source: d.Source, Name: d.Shape.Name, UUID: d.Shape.ID}
	for _, disk := range d.Shape.Disks {
		plan.Disks = append(plan.Disks, backstay.PlannedDisk{Target: disk.Target, Path: disk.Source, Format: disk.Format})
	}
	return plan
}

// TestADeployThatFailsLeavesTheFolderAlone: at each call to the hypervisor.
func TestADeployThatFailsLeavesTheFolderAlone(t *testing.T) {
	for _, at := range []string{"define", "autostart"} {
		w := newTestWorld(t)
		r := w.disksOf(backstay.SnapshotTier)
		w.restoreDisks(r)
		w.hv.Hook = func(call string) error {
			if call == at {
				return errors.New("it refuses")
			}
			return nil
		}
		d := mover.DeployRequest{Job: otherJobID, Folder: r.Plan.Folder}
		described, err := w.host.Describe(t.Context(), d)
		must(t, err)
		d.Plan = deployPlan(described)
		d.Plan.Name = described.Shape.Name
		if err := w.host.Deploy(t.Context(), d); !backstay.IsCode(err, backstay.CodeDeployFailed) {
			t.Errorf("%s: %v", at, err)
		}
		w.hv.Hook = func(string) error { return nil }
		if _, err := w.hv.Domain(context.Background(), r.Plan.UUID); err == nil {
			t.Errorf("%s: the VM is there", at)
		}
		if j, err := w.host.loadJournal(d.Job); j != nil || err != nil {
			t.Errorf("%s: the journal is still there: %+v %v", at, j, err)
		}
		w.deploy(r)
	}
}

// TestADiskThatIsNotWhatItWasIsNamed before anything is made of it.
func TestADiskThatIsNotWhatItWasIsNamed(t *testing.T) {
	w := newTestWorld(t)
	r := w.disksOf(backstay.SnapshotTier)
	w.restoreDisks(r)
	must(t, os.Rename(r.Plan.Disks[0].Path, w.path("out/elsewhere.qcow2")))
	d := mover.DeployRequest{Folder: r.Plan.Folder}
	described, err := w.host.Describe(t.Context(), d)
	must(t, err)
	if len(described.Problems) != 1 {
		t.Errorf("problems: %v", described.Problems)
	}
	d.Set = map[string]string{"disk.vda.path": w.path("out/elsewhere.qcow2")}
	described, err = w.host.Describe(t.Context(), d)
	must(t, err)
	if len(described.Problems) != 0 || described.Shape.Disks[0].Source != w.path("out/elsewhere.qcow2") {
		t.Errorf("with its new place: %+v", described)
	}
}

// TestWhatCanBeTakenBackIsKeptTrackOfForAWhile and no longer.
func TestWhatCanBeTakenBackIsKeptTrackOfForAWhile(t *testing.T) {
	w := newTestWorld(t)
	r := w.disksOf(backstay.SnapshotTier)
	until := w.restoreDisks(r).Until
	for after, kept := range map[time.Duration]bool{-time.Minute: true, time.Minute: false} {
		j, err := w.host.loadJournal(r.Job)
		must(t, err)
		j.Until = w.host.now().Add(-after)
		must(t, j.write())
		_, err = w.host.Sweep(t.Context(), nil)
		must(t, err)
		if left, _ := w.host.loadJournal(r.Job); (left != nil) != kept {
			t.Errorf("%s after its time: there %v, want %v", after, left != nil, kept)
		}
		if !exists(r.Plan.Disks[0].Path) {
			t.Fatal("the disks went with the journal")
		}
		must(t, j.write())
	}
	if until == nil {
		t.Error("the restore does not say until when it can be taken back")
	}
}
