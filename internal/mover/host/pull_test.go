package host

import (
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
)

func (w *testWorld) sums() map[backstay.DiskTarget]string {
	w.t.Helper()
	sums := map[backstay.DiskTarget]string{}
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		sum := sha256.Sum256(w.content(sourceVM, target))
		sums[target] = hex.EncodeToString(sum[:])
	}
	return sums
}

func (w *testWorld) pullRequest(id, parent backstay.PointID) mover.PullRequest {
	return mover.PullRequest{
		Job: testJob, Point: id, VM: sourceVM, Parent: parent, Vault: w.access, Time: instant,
		Disks: []backstay.DiskTarget{"vda", "vdb"}, Consistency: backstay.FileSystemConsistent,
	}
}

// pull makes a point and sees that it holds what the guest had, that its guest
// is not frozen and that nothing is left beside the disks.
func (w *testWorld) pull(id, parent backstay.PointID) mover.Pulled {
	w.t.Helper()
	sums := w.sums()
	done, err := w.host.Pull(w.t.Context(), w.pullRequest(id, parent), nil)
	must(w.t, err)
	w.holds(id, backstay.VaultTier, sums)
	w.clean()
	return done
}

func (w *testWorld) clean() {
	w.t.Helper()
	for _, pattern := range []string{"vms/*scratch*", "s/*"} {
		if left, _ := filepath.Glob(w.path(pattern)); len(left) > 0 {
			w.t.Errorf("left behind: %q", left)
		}
	}
	if _, runs, err := w.hv.Pulling(w.t.Context(), sourceVM); err != nil || runs {
		w.t.Errorf("a job is left: %v, %v", runs, err)
	}
	// The guard of a session that could not thaw goes on trying by itself.
	for deadline := time.Now().Add(20 * time.Second); ; {
		domain, err := w.hv.Domain(w.t.Context(), sourceVM)
		must(w.t, err)
		if domain.VM.State != backstay.VMRunning {
			return
		}
		answer, err := w.hv.AgentCommand(w.t.Context(), sourceVM, `{"execute":"guest-fsfreeze-status"}`, time.Second)
		if err == nil && strings.Contains(answer, "thawed") {
			return
		}
		if time.Now().After(deadline) {
			w.t.Fatalf("the guest was left frozen: %s, %v", answer, err)
		}
	}
}

func (w *testWorld) checkpoints() []string {
	w.t.Helper()
	all, err := w.hv.Checkpoints(w.t.Context(), sourceVM)
	must(w.t, err)
	var names []string
	for _, c := range all {
		names = append(names, c.Name)
	}
	return names
}

func TestAPullReadsWhatChangedSinceThePointInTheVault(t *testing.T) {
	w := newTestWorld(t)
	first := w.pull(pointID, "")
	if first.Taken.Consistency != backstay.FileSystemConsistent || first.Transferred.Modes["vdb"] != "first copy" {
		t.Errorf("the first is %s (%s), %q", first.Taken.Consistency, first.Taken.Reason, first.Transferred.Modes)
	}
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 8192, bytes.Repeat([]byte{7}, 8192)))
	second := w.pull(pointB, pointID)
	if m := second.Transferred.Modes; m["vdb"] != "dirty bitmap" || !strings.Contains(m["vda"], "a raw image keeps no dirty bitmap") {
		t.Errorf("the second went by %q", m)
	}
	if got := second.Transferred.Stats.BytesNew; got > 64<<10 {
		t.Errorf("8 KiB changed, and %d bytes are new", got)
	}
	if got := w.checkpoints(); len(got) != 1 || !strings.Contains(got[0], string(pointB)) || len(second.Notes) > 0 {
		t.Errorf("checkpoints %q, notes %q", got, second.Notes)
	}
}

func TestADeadQEMUsBitmapIsNotBelievedAndNothingIsStoredAgain(t *testing.T) {
	w := newTestWorld(t)
	w.pull(pointID, "")
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 8192, bytes.Repeat([]byte{7}, 4096)))
	w.hv.BreakCheckpoints(sourceVM)
	done := w.pull(pointB, pointID)
	if !strings.Contains(done.Transferred.Modes["vdb"], "missing or broken") || done.Transferred.Stats.BytesNew > 64<<10 {
		t.Errorf("it went by %q and stored %d bytes", done.Transferred.Modes, done.Transferred.Stats.BytesNew)
	}
	if len(done.Notes) != 1 || !strings.Contains(done.Notes[0], string(backstay.CodeCheckpointLost)) {
		t.Errorf("notes %q", done.Notes)
	}
	if got := w.checkpoints(); len(got) != 1 || !strings.Contains(got[0], string(pointB)) {
		t.Errorf("checkpoints %q", got)
	}
	if m := w.pull(pointC, pointB).Transferred.Modes; m["vdb"] != "dirty bitmap" {
		t.Errorf("the one after it went by %q", m)
	}
}

// TestABitmapIsOnlyUsedForThePointThatItIsBoundTo is I7: each doubt costs a
// compare of everything, and nothing is stored again.
func TestABitmapIsOnlyUsedForThePointThatItIsBoundTo(t *testing.T) {
	other := backstay.PointID("01JP0000000000000000000009")
	for name, c := range map[string]struct {
		change func(*testWorld)
		parent backstay.PointID
		want   string
	}{
		"another point is the newest": {func(w *testWorld) { w.pullInto(other) }, pointID, "no checkpoint belongs to point"},
		"the checkpoint is gone": {func(w *testWorld) {
			must(w.t, w.hv.DropCheckpoint(w.t.Context(), sourceVM, w.checkpoints()[0], true))
		}, pointID, "is gone"},
		"the disk is on another file": {func(w *testWorld) {
			must(w.t, w.hv.Destroy(w.t.Context(), sourceVM))
			must(w.t, os.Link(w.path("vms/data.qcow2"), w.path("vms/moved.qcow2")))
			w.retarget("vdb", w.path("vms/moved.qcow2"))
			must(w.t, w.hv.Start(w.t.Context(), sourceVM))
		}, pointID, "other image files"},
		"the storage was rolled back": {func(w *testWorld) { w.scribble("vms/data.qcow2") }, pointID, "the dirty bitmap does not name them"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newTestWorld(t)
			w.pull(pointID, "")
			c.change(w)
			done := w.pull(pointB, c.parent)
			if !strings.Contains(done.Transferred.Modes["vdb"], c.want) {
				t.Errorf("it went by %q", done.Transferred.Modes["vdb"])
			}
		})
	}
}

// pullInto makes another point, which takes over the checkpoint.
func (w *testWorld) pullInto(id backstay.PointID) { w.pull(id, pointID) }

func TestAForeignJobIsNamedAndLeftAlone(t *testing.T) {
	w := newTestWorld(t)
	w.hv.SetForeignJob(sourceVM, true)
	_, err := w.host.Pull(t.Context(), w.pullRequest(pointID, ""), nil)
	if !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), "/elsewhere.sock") {
		t.Errorf("%v", err)
	}
	if job, runs, err := w.hv.Pulling(t.Context(), sourceVM); err != nil || !runs || job.Socket != "/elsewhere.sock" {
		t.Errorf("the foreign job: %+v, %v, %v", job, runs, err)
	}
	w.hv.SetForeignJob(sourceVM, false)
	w.clean()
}

func TestForeignCheckpointsStayAndAreNoObstacle(t *testing.T) {
	w := newTestWorld(t)
	w.hv.AddCheckpoint(sourceVM, "theirs", "vdb")
	w.pull(pointID, "")
	w.hv.AddCheckpoint(sourceVM, "theirs-too", "vdb")
	if m := w.pull(pointB, pointID).Transferred.Modes; m["vdb"] != "dirty bitmap" {
		t.Errorf("it went by %q", m)
	}
	must(t, w.host.EndPulls(t.Context(), sourceVM))
	if got := strings.Join(w.checkpoints(), " "); got != "theirs theirs-too" {
		t.Errorf("checkpoints %q", got)
	}
}

func TestAVMThatIsShutOffIsReadFromItsImages(t *testing.T) {
	w := newTestWorld(t)
	w.pull(pointID, "")
	must(t, w.hv.Destroy(t.Context(), sourceVM))
	done := w.pull(pointB, pointID)
	if done.Taken.Consistency != backstay.CrashConsistent || !strings.Contains(done.Taken.Reason, "shut off") ||
		!strings.Contains(done.Transferred.Modes["vdb"], "shut off") || done.Transferred.Stats.BytesNew > 64<<10 {
		t.Errorf("%+v by %q", done.Taken, done.Transferred.Modes)
	}
}

// TestCutOffAnywhereAPullLeavesNothingBehindAfterTheNextSweep ends the process
// before each change that the hypervisor makes.
func TestCutOffAnywhereAPullLeavesNothingBehindAfterTheNextSweep(t *testing.T) {
	dead := errors.New("the process has ended")
	for n := range 40 {
		w := newTestWorld(t)
		w.pull(pointID, "")
		calls, cut := 0, false
		w.hv.Hook = func(call string) error {
			if calls++; calls > n && call != "domain" {
				cut = true
				return dead
			}
			return nil
		}
		_, err := w.host.Pull(t.Context(), w.pullRequest(pointB, pointID), nil)
		w.hv.Hook = func(string) error { return nil }
		w.restart()
		if _, err := w.host.Sweep(t.Context(), nil); err != nil {
			t.Fatalf("call %d: sweep: %v", n, err)
		}
		w.clean()
		if err == nil && !cut {
			return // every call was let through
		}
		parent := pointID
		if err == nil {
			parent = pointB // it was stored, and only the cleaning was cut off
		}
		done := w.pull(pointC, parent)
		if m := done.Transferred.Modes["vdb"]; m != "dirty bitmap" {
			t.Errorf("call %d: the next pull went by %q", n, m)
		}
		if got := w.checkpoints(); len(got) != 1 {
			t.Errorf("call %d: checkpoints %q", n, got)
		}
	}
	t.Error("the last call was never reached")
}

func TestAPullWhoseAnswerWasLostIsDone(t *testing.T) {
	w := newTestWorld(t)
	w.pull(pointID, "")
	must(t, w.hv.WriteGuest(sourceVM, "vdb", 0, bytes.Repeat([]byte{9}, 4096)))
	again, err := w.host.Pull(t.Context(), w.pullRequest(pointID, ""), nil)
	if err != nil || len(again.Taken.Disks) != 2 || again.Taken.Consistency != backstay.FileSystemConsistent {
		t.Errorf("%+v, %v", again.Taken, err)
	}
	if m := w.pull(pointB, pointID).Transferred.Modes; m["vdb"] != "dirty bitmap" {
		t.Errorf("the next went by %q", m)
	}
}

func TestAFallbackThatIsForbiddenFailsThePull(t *testing.T) {
	w := newTestWorld(t)
	w.hv.SetAgent(sourceVM, backstay.AgentDisconnected)
	r := w.pullRequest(pointID, "")
	r.Fallback = []backstay.Consistency{}
	if _, err := w.host.Pull(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeInconsistent) {
		t.Errorf("%v", err)
	}
	w.hv.SetAgent(sourceVM, backstay.AgentConnected)
	w.clean()
	if got := w.checkpoints(); len(got) != 0 {
		t.Errorf("checkpoints %q", got)
	}
}

func (w *testWorld) retarget(target backstay.DiskTarget, path string) {
	w.t.Helper()
	must(w.t, w.hv.Retarget(w.t.Context(), sourceVM, target, hypervisor.Source{Image: hypervisor.Plain(path, "qcow2")}))
}

// scribble changes the content of an image behind everybody's back: all of its
// data, and none of the tables in front of it.
func (w *testWorld) scribble(image string) {
	w.t.Helper()
	data, err := os.ReadFile(w.path(image))
	must(w.t, err)
	for i := 4096 * (2 + testSize/4096/4096); i < len(data); i++ {
		if data[i] != 0 {
			data[i] ^= 0x55
		}
	}
	f, err := os.OpenFile(w.path(image), os.O_WRONLY, 0)
	must(w.t, err)
	_, err = f.WriteAt(data, 0)
	must(w.t, errors.Join(err, f.Close()))
}

// restart is a new process on the same host.
func (w *testWorld) restart() {
	w.t.Helper()
	var err error
	w.host, err = New(Options{
		Hypervisor: seenHost{w.hv, w}, Images: w.hv, Keyring: keyfile.New(w.path("keys")), StateDir: w.path("state"), SocketDir: w.path("s"),
		OpenVault: w.openVault, Name: "h1", Log: slog.New(slog.NewTextHandler(w.logs, nil)),
	})
	must(w.t, err)
}
