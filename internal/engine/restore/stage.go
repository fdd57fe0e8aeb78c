package restore

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// stager is the call of a mover that writes the planned disks.
type stager func(context.Context, mover.StageRequest, mover.Progress) (mover.Staged, error)

// stage writes and verifies the planned disks as the tasks stage and verify. What
// holds it up is noted with the task, and copies in the vault that were damaged are
// warned of.
func (a *attempt) stage(ctx context.Context, write stager) (mover.Staged, error) {
	staged, err := mover.Phases(ctx, a.run, []string{"stage", "verify"},
		func(ctx context.Context, progress mover.Progress) (mover.Staged, error) {
			if stagedBefore(a.run) {
				return mover.Staged{Paths: paths(a.request.Plan)}, nil
			}
			return a.stageOn(ctx, write, progress)
		}, noter(a.run))
	if err != nil {
		return staged, err
	}
	for _, warning := range staged.Warnings {
		if err := a.run.Warn(warning); err != nil {
			return staged, err
		}
	}
	if a.Damaged == nil || len(staged.Damaged) == 0 || a.request.Vault == nil {
		return staged, nil
	}
	if err := a.Damaged(ctx, a.request.Vault.Name, staged.Damaged); err != nil {
		// The restore is right all the same; the next verify finds them too.
		return staged, a.run.Warn(fmt.Sprintf("a repair of the damaged copies could not be queued: %v", err))
	}
	return staged, nil
}

// awhile is how long a restore waits for a mover that went away in the middle.
// Tests are less patient.
var awhile = struct{ pause, total time.Duration }{2 * time.Second, 2 * time.Minute}

// stageOn stages, and goes on when a mover that went away is back: what it wrote is
// durable. Before it began there is nothing to wait for.
func (a *attempt) stageOn(ctx context.Context, write stager, progress mover.Progress) (mover.Staged, error) {
	last, waited := mover.Report{}, time.Duration(0)
	for {
		begun := false
		staged, err := write(ctx, a.request, func(r mover.Report) {
			last, begun = r, true
			progress(r)
		})
		if begun {
			waited = 0
		}
		if !backstay.IsCode(err, backstay.CodeHostAway) || last.Phase == "" || waited >= awhile.total || ctx.Err() != nil {
			return staged, err
		}
		note := last
		note.Note = "host " + string(a.request.Plan.Host) + " cannot be reached; the restore goes on when it can"
		progress(note)
		if err := pause(ctx, awhile.pause); err != nil {
			return mover.Staged{}, err
		}
		waited += awhile.pause
	}
}

// pause waits, and returns why ctx ended if it did.
func pause(ctx context.Context, long time.Duration) error {
	wait := time.NewTimer(long)
	defer wait.Stop()
	select {
	case <-wait.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// whileAway repeats a call of the mover, which goes on from where it was, while the
// host cannot be reached: for as long as it takes if the VM runs there already, else
// for a while.
func (a *attempt) whileAway(ctx context.Context, task string, call func() error) error {
	var waited time.Duration
	for {
		err := call()
		if !backstay.IsCode(err, backstay.CodeHostAway) || ctx.Err() != nil || waited >= awhile.total && task != copyTask {
			return err
		}
		a.note(task, backstay.AsError(err).Error()+"; the restore goes on when it can")
		if err := pause(ctx, awhile.pause); err != nil {
			return err
		}
		waited += awhile.pause
	}
}

// note says for people what a task waits for. That it cannot be said fails nothing.
func (a *attempt) note(task, words string) {
	if long, ok := a.run.(backstay.LongRun); ok {
		_ = long.Note(task, words)
	}
}

// noter shows with the running task what holds it up, and that it goes on.
func noter(run backstay.Run) mover.Progress {
	long, ok := run.(backstay.LongRun)
	if !ok {
		return nil
	}
	tasks := map[string]string{"write": "stage", "verify": "verify"}
	var mu sync.Mutex
	last := "" // guarded by mu
	return func(r mover.Report) {
		mu.Lock()
		defer mu.Unlock()
		task, known := tasks[r.Phase]
		if !known || r.Note == last {
			return
		}
		if long.Note(task, r.Note) == nil { // else the next report tells
			last = r.Note
		}
	}
}

// waitsForRetry tells whether the mover keeps what it wrote: the vault stayed away
// while the disks were written, and a retry of the job goes on from there.
func (a *attempt) waitsForRetry(ctx context.Context, failure error) bool {
	return backstay.IsCode(failure, backstay.CodeVaultAway) && !stagedBefore(a.run) &&
		!errors.Is(context.Cause(ctx), backstay.ErrCancelled)
}
