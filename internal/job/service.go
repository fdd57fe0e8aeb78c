package job

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// notEnded are the states of the jobs that the queue has to do with.
var notEnded = []backstay.JobState{backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling}

// Start takes up the jobs that an earlier life of this server (or, if it is
// Exclusive, anybody) left running, and works on the queue until Stop or until
// ctx ends. A second call does nothing.
func (q *Queue) Start(ctx context.Context) error {
	q.life.Lock()
	defer q.life.Unlock()
	if q.started {
		return nil
	}
	if err := q.adopt(ctx); err != nil {
		return fmt.Errorf("take up the jobs that were running: %w", err)
	}
	// The end of ctx is a stop, not a cancel: jobs must be able to tell.
	root, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	detach := context.AfterFunc(ctx, func() { cancel(backstay.ErrStopping) })
	q.stop = func() {
		detach()
		cancel(backstay.ErrStopping)
	}
	q.started = true
	q.work.Go(func() { q.loop(root) })
	return nil
}

// Stop ends the context of every running job with ErrStopping and waits until
// all have returned. They stay running in the catalogue, unlocked, and go on at
// the next Start. A second call does nothing.
func (q *Queue) Stop() {
	q.life.Lock()
	defer q.life.Unlock()
	if !q.started {
		return
	}
	q.stop()
	q.work.Wait()
	q.mu.Lock()
	close(q.stopped)
	q.stopped = make(chan struct{})
	q.mu.Unlock()
	q.started = false
}

// adopt releases the locks of the dead, so that the loop may claim their jobs.
func (q *Queue) adopt(ctx context.Context) error {
	recs, err := q.jobs.ListJobs(ctx, 0, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return err
	}
	for _, rec := range recs {
		if q.opts.Exclusive || rec.LockedBy == q.opts.Owner {
			if err := q.release(ctx, rec); err != nil {
				return err
			}
		}
	}
	return nil
}

// release lets go of a lock whose holder is known to be gone.
func (q *Queue) release(ctx context.Context, rec catalog.JobRecord) error {
	_, err := q.jobs.UpdateJob(ctx, rec.ID, rec.Fence, func(rec *catalog.JobRecord) error {
		rec.Release()
		return nil
	})
	if errors.Is(err, catalog.ErrFenced) {
		return nil // somebody claimed it meanwhile
	}
	return err
}

// loop looks at the queue whenever something changed, and now and then for what
// other servers did.
func (q *Queue) loop(root context.Context) {
	poll := time.NewTicker(q.opts.Poll)
	defer poll.Stop()
	for root.Err() == nil {
		if err := q.dispatch(root); err != nil && root.Err() == nil {
			q.opts.Log.Error("queue cannot be worked on", "error", err)
		}
		select {
		case <-root.Done():
		case <-q.kick:
		case <-poll.C:
		}
	}
}

// dispatch goes over the queue once.
func (q *Queue) dispatch(root context.Context) error {
	active, err := q.jobs.ListJobs(root, 0, notEnded...)
	if err != nil {
		return err
	}
	slices.Reverse(active) // oldest first
	now := q.opts.Now()
	for _, rec := range active {
		if q.abandoned(rec, now) {
			if rec.LockedBy == q.opts.Owner {
				if err := q.release(root, rec); err != nil {
					return err
				}
			}
			if err := q.take(root, rec.ID); err != nil {
				return err
			}
		}
	}
	decisions := plan(active, q.opts.Limits, func(kind backstay.JobKind) bool { return q.opts.Runners[kind] != nil })
	for _, d := range decisions {
		if d.waiting == "" {
			if err := q.take(root, d.job.ID); err != nil {
				return err
			}
		}
	}
	for _, d := range decisions {
		if err := q.sayWaiting(root, d); err != nil {
			return err
		}
	}
	return nil
}

// abandoned tells whether the job should be running and nobody runs it.
func (q *Queue) abandoned(rec catalog.JobRecord, now time.Time) bool {
	if rec.Job.State == backstay.JobQueued || q.opts.Runners[rec.Kind] == nil || q.running(rec.ID) != nil {
		return false
	}
	return rec.LockedBy == "" || rec.LockedBy == q.opts.Owner || !rec.LockUntil.After(now)
}

// sayWaiting writes what the job waits for, if that changed.
func (q *Queue) sayWaiting(ctx context.Context, d decision) error {
	if d.waiting == "" || d.waiting == d.job.Waiting {
		return nil
	}
	_, err := q.jobs.UpdateJob(ctx, d.job.ID, 0, func(rec *catalog.JobRecord) error {
		if rec.Job.State == backstay.JobQueued {
			rec.Waiting = d.waiting
		}
		return nil
	})
	q.changed(d.job.ID)
	return err
}

// take claims the job and runs it, unless somebody else was faster.
func (q *Queue) take(root context.Context, id backstay.JobID) error {
	now := q.opts.Now().UTC()
	rec, err := q.jobs.ClaimJob(root, id, q.opts.Owner, now, now.Add(q.opts.Lease))
	if errors.Is(err, catalog.ErrFenced) || errors.Is(err, catalog.ErrBusy) {
		return nil
	}
	if err != nil {
		return err
	}
	r := newRun(root, q, rec)
	q.mu.Lock()
	q.live[id] = r
	q.mu.Unlock()
	q.stateChanged(rec.Job)
	q.work.Go(func() { // the loop, which calls this, is part of work: it is not waited for yet
		r.execute(q.opts.Runners[rec.Kind])
		q.mu.Lock()
		delete(q.live, id)
		q.mu.Unlock()
		q.changed(id)
		q.wake()
	})
	return nil
}
