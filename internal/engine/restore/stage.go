package restore

import (
	"context"
	"errors"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// stage writes and verifies the planned disks as the tasks stage and verify. What
// holds it up is noted with the task, and copies in the vault that were damaged are
// warned of.
func (a *attempt) stage(ctx context.Context) (mover.Staged, error) {
	staged, err := mover.Phases(ctx, a.run, []string{"stage", "verify"},
		func(ctx context.Context, progress mover.Progress) (mover.Staged, error) {
			if stagedBefore(a.run) {
				return mover.Staged{Paths: paths(a.request.Plan)}, nil
			}
			return a.stageOn(ctx, progress)
		}, noter(a.run))
	if err != nil {
		return staged, err
	}
	for _, warning := range staged.Warnings {
		if err := a.run.Warn(warning); err != nil {
			return staged, err
		}
	}
	return staged, nil
}

// awhile is how long a restore waits for a mover that went away in the middle.
// Tests are less patient.
var awhile = struct{ pause, total time.Duration }{2 * time.Second, 2 * time.Minute}

// stageOn stages, and goes on when a mover that went away is back: what it wrote is
// durable. Before it began there is nothing to wait for.
func (a *attempt) stageOn(ctx context.Context, progress mover.Progress) (mover.Staged, error) {
	last, waited := mover.Report{}, time.Duration(0)
	for {
		begun := false
		staged, err := a.mover.Stage(ctx, a.request, func(r mover.Report) {
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
		select {
		case <-time.After(awhile.pause):
		case <-ctx.Done():
			return mover.Staged{}, context.Cause(ctx)
		}
		waited += awhile.pause
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
