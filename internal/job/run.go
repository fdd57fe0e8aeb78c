package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// errTakenOver ends the context of a job that another life goes on with: as with
// a stop, everything is to be left as it is.
var errTakenOver = fmt.Errorf("%w: %w", backstay.ErrStopping, catalog.ErrFenced)

// writeTimeout bounds one write to the catalogue.
const writeTimeout = 30 * time.Second

// run is one life of one job. It implements backstay.LongRun.
type run struct {
	q      *Queue
	id     backstay.JobID
	fence  int64
	params json.RawMessage
	root   context.Context // the queue's: ended means that the server stops
	ctx    context.Context // the runner's; its cause says why it ended
	cancel context.CancelCauseFunc

	writing sync.Mutex // held during a write, so that rec is always the newest

	mu    sync.Mutex
	rec   catalog.JobRecord // guarded by mu: as last written
	meter meter             // guarded by mu
	dirty bool              // guarded by mu: the meter is ahead of rec
}

func newRun(root context.Context, q *Queue, rec catalog.JobRecord) *run {
	ctx, cancel := context.WithCancelCause(root)
	r := &run{q: q, id: rec.ID, fence: rec.Fence, params: rec.Params, root: root, ctx: ctx, cancel: cancel, rec: rec}
	r.meter.weights = q.opts.Weights
	r.meter.resume(rec.BytesDone, rec.BytesTotal)
	if rec.Job.State == backstay.JobCancelling {
		cancel(backstay.ErrCancelled)
	}
	if rec.Attempt > q.opts.MaxAttempts {
		cancel(crashes(rec.Attempt - 1))
	}
	return r
}

// Params decodes the parameters with which the run's job was submitted. Unlike
// a read of the catalogue it also works in a life that only undoes, whose
// context ended before it began.
func Params(r backstay.Run, v any) error {
	own, ok := r.(*run)
	if !ok {
		return fmt.Errorf("decode a job's parameters: %T is not a run of this queue", r)
	}
	if err := json.Unmarshal(own.params, v); err != nil {
		return fmt.Errorf("decode the parameters of job %s: %w", own.id, err)
	}
	return nil
}

// Job implements backstay.Run.
func (r *run) Job() backstay.Job {
	r.mu.Lock()
	defer r.mu.Unlock()
	job := r.rec.Job
	job.Tasks = slices.Clone(job.Tasks)
	job.Warnings = slices.Clone(job.Warnings)
	r.meter.show(&job, r.q.opts.Now())
	return job
}

// Step implements backstay.Run.
func (r *run) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if state := r.taskState(name); state == backstay.TaskSucceeded || state == backstay.TaskSkipped {
		return nil
	}
	if ctx.Err() == nil && r.q.opts.OnStep != nil {
		r.q.opts.OnStep(ctx, r.Job(), name)
	}
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	err := r.update(func(rec *catalog.JobRecord) error {
		now := r.q.opts.Now().UTC()
		*task(&rec.Job, name) = backstay.Task{Name: name, State: backstay.TaskRunning, Started: &now}
		return nil
	})
	if err != nil {
		return fmt.Errorf("record that task %s began: %w", name, err)
	}
	r.mu.Lock()
	r.meter.beginTask()
	r.mu.Unlock()
	r.q.opts.Log.Info("task began", "job", r.id, "step", name)

	failure := fn(ctx)
	if failure != nil && errors.Is(context.Cause(r.ctx), backstay.ErrStopping) {
		return failure // it stays running: the next life runs it again
	}
	if err := r.endTask(name, failure); err != nil {
		return errors.Join(failure, fmt.Errorf("record that task %s ended: %w", name, err))
	}
	return failure
}

func (r *run) endTask(name string, failure error) error {
	now := r.q.opts.Now().UTC()
	if failure == nil {
		r.q.opts.Log.Info("task ended", "job", r.id, "step", name)
	} else {
		r.q.opts.Log.Warn("task ended with an error", "job", r.id, "step", name, "error", failure)
	}
	return r.update(func(rec *catalog.JobRecord) error {
		t := task(&rec.Job, name)
		t.Ended = &now
		switch {
		case failure == nil:
			t.State, t.Percent = backstay.TaskSucceeded, 100
			rec.Attempt = 1 // crashes are counted for each task
		case errors.Is(context.Cause(r.ctx), backstay.ErrCancelled):
			t.State, t.Detail = backstay.TaskUndone, "cut off by a cancel"
		default:
			t.State, t.Detail = backstay.TaskFailed, r.public(failure).Error()
		}
		return nil
	})
}

// task returns the job's task of the name, which is added if there is none.
func task(job *backstay.Job, name string) *backstay.Task {
	for i := range job.Tasks {
		if job.Tasks[i].Name == name {
			return &job.Tasks[i]
		}
	}
	job.Tasks = append(job.Tasks, backstay.Task{Name: name, State: backstay.TaskPending})
	return &job.Tasks[len(job.Tasks)-1]
}

func (r *run) taskState(name string) backstay.TaskState {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, t := range r.rec.Tasks {
		if t.Name == name {
			return t.State
		}
	}
	return backstay.TaskPending
}

// Progress implements backstay.Run.
func (r *run) Progress(done, total int64) {
	now := r.q.opts.Now()
	r.mu.Lock()
	defer r.mu.Unlock()
	r.meter.add(now, done, total)
	r.dirty = true
}

// Load implements backstay.Run.
func (r *run) Load(v any) (bool, error) {
	r.mu.Lock()
	saved := r.rec.State
	r.mu.Unlock()
	if len(saved) == 0 {
		return false, nil
	}
	if err := json.Unmarshal(saved, v); err != nil {
		return false, fmt.Errorf("decode the saved state of job %s: %w", r.id, err)
	}
	return true, nil
}

// Save implements backstay.Run.
func (r *run) Save(v any) error {
	data, err := json.Marshal(v)
	if err != nil {
		return fmt.Errorf("encode the state of job %s: %w", r.id, err)
	}
	return r.update(func(rec *catalog.JobRecord) error { rec.State = data; return nil })
}

// Warn implements backstay.Run. A warning that is there already, from an earlier
// life perhaps, is not added again.
func (r *run) Warn(warning string) error {
	r.q.opts.Log.Warn("job has a warning", "job", r.id, "warning", warning)
	return r.update(func(rec *catalog.JobRecord) error {
		if !slices.Contains(rec.Warnings, warning) {
			rec.Warnings = append(rec.Warnings, warning)
		}
		return nil
	})
}

// Update implements backstay.Run. Only the point, the result and the stats are
// taken over.
func (r *run) Update(change func(*backstay.Job)) error {
	return r.update(func(rec *catalog.JobRecord) error {
		job := rec.Job
		change(&job)
		rec.Point, rec.Result, rec.Stats = job.Point, job.Result, job.Stats
		return nil
	})
}

// FreeVMs implements backstay.LongRun.
func (r *run) FreeVMs() error {
	err := r.update(func(rec *catalog.JobRecord) error { rec.VMsFree = true; return nil })
	if err == nil {
		r.q.wake() // others may wait for the VMs
	}
	return err
}

// Skip implements backstay.LongRun.
func (r *run) Skip(name, reason string) error {
	r.q.opts.Log.Info("task skipped", "job", r.id, "step", name, "reason", reason)
	return r.update(func(rec *catalog.JobRecord) error {
		*task(&rec.Job, name) = backstay.Task{Name: name, State: backstay.TaskSkipped, Detail: reason}
		return nil
	})
}

// Note implements backstay.LongRun.
func (r *run) Note(name, detail string) error {
	return r.update(func(rec *catalog.JobRecord) error { task(&rec.Job, name).Detail = detail; return nil })
}

// update writes a change together with the progress so far. It works when the
// runner's context has ended as well: undoing is recorded too.
func (r *run) update(change func(*catalog.JobRecord) error) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(r.ctx), writeTimeout)
	defer done()
	r.writing.Lock()
	rec, err := r.q.jobs.UpdateJob(ctx, r.id, r.fence, func(rec *catalog.JobRecord) error {
		now := r.q.opts.Now()
		r.mu.Lock()
		r.meter.show(&rec.Job, now)
		r.dirty = false
		r.mu.Unlock()
		rec.LockUntil = now.Add(r.q.opts.Lease)
		return change(rec)
	})
	if err == nil {
		r.mu.Lock()
		r.rec = rec
		r.mu.Unlock()
	}
	r.writing.Unlock()
	if errors.Is(err, catalog.ErrFenced) {
		r.cancel(errTakenOver)
	}
	if err != nil {
		return err
	}
	if rec.Job.State == backstay.JobCancelling {
		r.cancel(backstay.ErrCancelled)
	}
	r.q.changed(r.id)
	return nil
}

// toldToCancel ends the runner's context and reads the new state.
func (r *run) toldToCancel() {
	r.cancel(backstay.ErrCancelled)
	if err := r.update(func(*catalog.JobRecord) error { return nil }); err != nil && !errors.Is(err, catalog.ErrFenced) {
		r.q.opts.Log.Warn("job's new state cannot be read yet", "job", r.id, "error", err)
	}
}

// pulse shows the progress five times a second, writes it once a second, and
// keeps the lock until done is closed. Ticks are counted rather than timed, so
// that a clock that is set changes nothing.
func (r *run) pulse(done <-chan struct{}) {
	const ticksPerSecond = 5
	tick := time.NewTicker(time.Second / ticksPerSecond)
	defer tick.Stop()
	// Six signs of life in each lease.
	beats := max(1, int(r.q.opts.Lease*ticksPerSecond/(6*time.Second)))
	held := r.q.opts.Now()
	for n := 1; ; n++ {
		select {
		case <-done:
			return
		case <-tick.C:
		}
		r.q.changed(r.id)
		if n%beats == 0 {
			held = r.beat(held)
		} else if n%ticksPerSecond == 0 && r.moved() {
			// A write that fails is made up for by the next.
			_ = r.update(func(*catalog.JobRecord) error { return nil })
		}
	}
}

// moved tells whether the catalogue's figures are behind.
func (r *run) moved() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.dirty || r.rec.BytesPerSecond != r.meter.rate(r.q.opts.Now())
}

// beat extends the lock and learns of a cancel. It returns when the lock was
// last known to be held. If that is a whole lease ago, somebody else may have
// the job: then this life ends by itself.
func (r *run) beat(held time.Time) time.Time {
	ctx, done := context.WithTimeout(context.WithoutCancel(r.ctx), writeTimeout)
	defer done()
	now := r.q.opts.Now()
	state, err := r.q.jobs.ExtendJob(ctx, r.id, r.fence, now.Add(r.q.opts.Lease))
	switch {
	case errors.Is(err, catalog.ErrFenced):
		r.cancel(errTakenOver)
	case err != nil:
		r.q.opts.Log.Warn("job's lock cannot be extended", "job", r.id, "error", err)
		if now.Sub(held) >= r.q.opts.Lease {
			r.cancel(errTakenOver)
		}
		return held
	case state == backstay.JobCancelling && context.Cause(r.ctx) == nil:
		r.toldToCancel()
	}
	return now
}
