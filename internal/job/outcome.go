package job

import (
	"context"
	"errors"
	"fmt"
	"runtime/debug"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// outcome is how one life of a job ends.
type outcome struct {
	// left: the job did not end; another life goes on with it.
	left  bool
	state backstay.JobState
	err   *backstay.Error
	note  string // a warning to add
}

// panicked is a panic of a runner.
type panicked struct {
	value any
	stack []byte
}

func (p *panicked) Error() string { return fmt.Sprintf("panic: %v", p.value) }

// execute runs the job to the end of this life.
func (r *run) execute(runner Runner) {
	defer r.cancel(nil)
	over, quiet := make(chan struct{}), make(chan struct{})
	go func() {
		defer close(quiet)
		r.pulse(over)
	}()
	failure := r.call(runner)
	close(over)
	<-quiet
	r.logFailure(failure)
	r.finish(r.decide(failure, context.Cause(r.ctx)))
}

// call runs the runner; its panic is the job's failure, never the server's.
func (r *run) call(runner Runner) (err error) {
	if r.rec.Attempt > r.q.opts.MaxAttempts+1 {
		return context.Cause(r.ctx) // not even undoing it ends well
	}
	defer func() {
		if p := recover(); p != nil {
			err = &panicked{p, debug.Stack()}
		}
	}()
	return runner(r.ctx, r)
}

func (r *run) logFailure(failure error) {
	var p *panicked
	switch {
	case errors.As(failure, &p):
		r.q.opts.Log.Error("job panicked", "job", r.id, "panic", p.value, "stack", string(p.stack))
	case failure != nil && context.Cause(r.ctx) == nil:
		r.q.opts.Log.Error("job failed", "job", r.id, "error", failure)
	case failure != nil:
		r.q.opts.Log.Info("job was cut off", "job", r.id, "why", context.Cause(r.ctx), "error", failure)
	}
}

// decide returns the outcome that the runner's error and the end of its context
// make.
func (r *run) decide(failure, cause error) outcome {
	var coded *backstay.Error
	var crash *panicked
	switch {
	case failure == nil && len(r.Job().Warnings) > 0:
		return outcome{state: backstay.JobWarning}
	case failure == nil:
		return outcome{state: backstay.JobSucceeded}
	case errors.As(failure, &crash):
		return outcome{state: backstay.JobFailed, err: r.public(failure)}
	case errors.Is(cause, backstay.ErrStopping):
		return outcome{left: true}
	case errors.Is(cause, backstay.ErrCancelled):
		end := outcome{state: backstay.JobCancelled, err: cancelled()}
		if errors.As(failure, &coded) && coded.Code != backstay.CodeCancelled && !endedBy(failure) {
			end.note = coded.Error()
		}
		return end
	case errors.As(cause, &coded):
		return outcome{state: backstay.JobFailed, err: coded}
	}
	return outcome{state: backstay.JobFailed, err: r.public(failure)}
}

// endedBy tells whether the failure is nothing but the end of the context.
func endedBy(failure error) bool {
	return errors.Is(failure, context.Canceled) || errors.Is(failure, backstay.ErrCancelled)
}

func cancelled() *backstay.Error {
	return backstay.Errorf(backstay.CodeCancelled, "the job was cancelled")
}

func crashes(times int) *backstay.Error {
	return backstay.Errorf(backstay.CodeJobCrashes, "the job was given up").
		Becausef("the server ended without a stop %d times in a row while it ran the same task", times)
}

// public is what people see of a failure: a coded error as it is, of anything
// else only where to look, since its text may hold what is none of theirs (I10).
func (r *run) public(failure error) *backstay.Error {
	var coded *backstay.Error
	if errors.As(failure, &coded) {
		return coded
	}
	return backstay.Errorf(backstay.CodeInternal, "something went wrong inside backstay").
		Becausef("the server's log has the details under job %s", r.id)
}

// finish writes the outcome. It must not be lost: a job whose end is not written
// would run again. So it is tried until it is written, or the server stops, or
// another life has the job.
func (r *run) finish(end outcome) {
	for tries, pause := 1, 100*time.Millisecond; ; tries, pause = tries+1, min(2*pause, 5*time.Second) {
		err := r.update(func(rec *catalog.JobRecord) error {
			if end.left {
				rec.Release()
				rec.Attempt-- // a stop is no crash
				return nil
			}
			settle(rec, end, r.q.opts.Now().UTC())
			return nil
		})
		if err == nil || errors.Is(err, catalog.ErrFenced) {
			break
		}
		r.q.opts.Log.Error("end of a job cannot be written", "job", r.id, "error", err)
		if r.root.Err() != nil && tries >= 3 {
			return
		}
		time.Sleep(pause)
	}
	if !end.left {
		r.q.stateChanged(r.Job())
	}
}

// settle puts the record into its ended state.
func settle(rec *catalog.JobRecord, end outcome, now time.Time) {
	job := &rec.Job
	job.State, job.Error, job.Ended, job.Waiting = end.state, end.err, &now, ""
	job.BytesPerSecond, job.EtaSeconds = 0, nil
	if end.note != "" {
		job.Warnings = append(job.Warnings, end.note)
	}
	if end.state == backstay.JobSucceeded || end.state == backstay.JobWarning {
		job.Percent = 100
	}
	for i := range job.Tasks {
		t := &job.Tasks[i]
		switch t.State {
		case backstay.TaskPending:
			t.State = backstay.TaskSkipped
		case backstay.TaskRunning:
			t.Ended = &now
			t.State = runningBecomes(end.state)
			if end.err != nil && t.Detail == "" {
				t.Detail = end.err.Error()
			}
		}
	}
}

// runningBecomes is the state of a task that was running when its job ended so.
func runningBecomes(state backstay.JobState) backstay.TaskState {
	switch state {
	case backstay.JobCancelled:
		return backstay.TaskUndone
	case backstay.JobFailed:
		return backstay.TaskFailed
	}
	return backstay.TaskSucceeded
}
