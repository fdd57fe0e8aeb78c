package restore

import (
	"context"
	"errors"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// CopyBehind is mover.Lives'.
func (w *world) CopyBehind(context.Context, mover.StageRequest, mover.Progress) error {
	if !w.running {
		w.t.Error("nothing runs whose disks could be copied in")
	}
	return nil
}

// Source is mover.Replaces'.
func (w *world) Source(context.Context, backstay.VMID) (mover.SourceState, error) {
	if !w.defined {
		return mover.SourceState{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no such VM")
	}
	state := backstay.VMShutOff
	if w.running {
		state = backstay.VMRunning
	}
	return mover.SourceState{State: state}, nil
}

// TestAVMThatMayHaveWrittenIsNotThrownAway: from its start on a live restore that
// fails leaves it, also before its guest was seen to be up. One that never ran goes.
func TestAVMThatMayHaveWrittenIsNotThrownAway(t *testing.T) {
	patient := awhile
	awhile.pause, awhile.total = time.Millisecond, 3*time.Millisecond
	defer func() { awhile = patient }()
	for _, c := range []struct {
		call  string
		code  backstay.Code
		stays bool
	}{
		{"start", backstay.CodeStartFailed, false},
		{"after start", backstay.CodeStartFailed, true},
		{"after start", backstay.CodeHostAway, true}, // for longer than is waited
	} {
		w := newWorld(t)
		params := w.params()
		params.Plan.Live, params.Plan.Tasks = true, liveTasks
		w.fail[c.call] = backstay.Errorf(c.code, "as the test wants it")
		if err := w.live(params); !backstay.IsCode(err, c.code) {
			t.Errorf("%s: %v", c.call, err)
		}
		if w.defined != c.stays {
			t.Errorf("%s fails with %s: the VM is there: %v", c.call, c.code, w.defined)
		}
	}
}

// TestALiveRestoreIsCopiedInWithWhatItsExportHas, when the server cannot tell how the
// vault is reached: the VM runs, and needs the copy all the more.
func TestALiveRestoreIsCopiedInWithWhatItsExportHas(t *testing.T) {
	w := newWorld(t)
	params := w.params()
	params.Plan.Live, params.Plan.Tasks, params.Plan.Tier = true, liveTasks, backstay.VaultTier
	w.staged, w.defined, w.running, w.begun = true, true, true, copyTask
	for _, task := range liveTasks[:4] {
		w.done[task] = true
	}
	r := w.runner()
	r.Vault = func(context.Context, backstay.VaultName) (mover.VaultAccess, error) {
		return mover.VaultAccess{}, errors.New("no key")
	}
	if err := r.Run(t.Context(), w, params); err != nil {
		t.Error(err)
	}
	if !w.done[copyTask] || len(w.warnings) != 1 {
		t.Errorf("its disks are copied: %v, %v", w.done[copyTask], w.warnings)
	}
}
