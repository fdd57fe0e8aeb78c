package job_test

import (
	"context"
	"encoding/json"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/job"
)

func contains(text, part string) bool { return strings.Contains(text, part) }

// shown tells whether the job's JSON, which is all that people see, has the text.
func shown(t *testing.T, j backstay.Job, text string) bool {
	t.Helper()
	data, err := json.Marshal(j)
	if err != nil {
		t.Fatal(err)
	}
	return contains(string(data), text)
}

// does is what the tasks of a test's job do.
type does map[string]func(context.Context, backstay.Run) error

func TestAfterAKillTheJobGoesOnBehindTheTasksThatSucceeded(t *testing.T) {
	var prepared, transferred atomic.Int64
	never := make(chan struct{})
	w := newWorld(t, nil)
	w.runner = steps(does{
		"prepare": func(_ context.Context, run backstay.Run) error {
			prepared.Add(1)
			return run.Save("overlay")
		},
		"transfer": func(ctx context.Context, run backstay.Run) error {
			if transferred.Add(1) == 1 {
				return hold(never)(ctx, run)
			}
			var made string
			if ok, err := run.Load(&made); err != nil || !ok || made != "overlay" {
				t.Errorf("loaded %q, %v, %v", made, ok, err)
			}
			return nil
		},
	})
	first := w.start(func(o *job.Options) { o.Owner = "first" })
	id := first.submit("a")
	first.until(id, func(j backstay.Job) bool { return j.Tasks[1].State == backstay.TaskRunning })
	first.kill()

	second := w.start(func(o *job.Options) { o.Owner = "second" })
	j := second.ended(id)
	if j.State != backstay.JobSucceeded || prepared.Load() != 1 || transferred.Load() != 2 {
		t.Errorf("job %s, prepared %d times, transferred %d times", j.State, prepared.Load(), transferred.Load())
	}
	rec, err := w.catalog.Jobs.Job(t.Context(), id)
	if err != nil || rec.Fence != 2 {
		t.Errorf("fence %d, error %v", rec.Fence, err)
	}
}

func TestAStoppedServersJobsStayRunningAndGoOnAtTheNextStart(t *testing.T) {
	var lives atomic.Int64
	var cause atomic.Value
	w := newWorld(t, nil)
	w.runner = steps(does{"transfer": func(ctx context.Context, run backstay.Run) error {
		if lives.Add(1) > 1 {
			return nil
		}
		<-ctx.Done()
		cause.Store(context.Cause(ctx))
		return ctx.Err()
	}})
	s := w.start(nil)
	id := s.submit("a")
	s.until(id, func(j backstay.Job) bool { return j.Tasks[1].State == backstay.TaskRunning })
	s.Stop()
	if err, _ := cause.Load().(error); !errors.Is(err, backstay.ErrStopping) {
		t.Errorf("the runner's context ended with %v", err)
	}
	rec, err := w.catalog.Jobs.Job(t.Context(), id)
	if err != nil || rec.Job.State != backstay.JobRunning || rec.LockedBy != "" || rec.Attempt != 0 || taskStates(rec.Job) != "succeeded running pending " {
		t.Errorf("record %+v, error %v", rec, err)
	}
	// Not exclusive: the released lock is enough.
	next := w.start(func(o *job.Options) { o.Exclusive = false })
	if j := next.ended(id); j.State != backstay.JobSucceeded {
		t.Errorf("the job ended as %s", j.State)
	}
}

func TestTheEndOfTheServersContextIsAStopNotACancel(t *testing.T) {
	w := newWorld(t, nil)
	w.runner = steps(does{"prepare": hold(nil)})
	s := w.server(nil)
	ctx, end := context.WithCancel(t.Context())
	if err := s.Start(ctx); err != nil {
		t.Fatal(err)
	}
	id := s.submit("a")
	s.until(id, func(j backstay.Job) bool { return j.Tasks[0].State == backstay.TaskRunning })
	end()
	s.Stop()
	if j, err := s.Get(t.Context(), id); err != nil || j.State != backstay.JobRunning {
		t.Errorf("job %s, error %v", j.State, err)
	}
}

func TestACancelThatAKillCutOffIsUndoneByTheNextLife(t *testing.T) {
	undone := make(chan error, 1)
	stuck := make(chan struct{})
	defer close(stuck)
	var lives atomic.Int64
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		if lives.Add(1) == 1 {
			if err := run.Save("overlay"); err != nil {
				return err
			}
			_ = run.Step(ctx, "prepare", func(ctx context.Context) error {
				<-stuck // undoing takes long, and the server is killed meanwhile
				return nil
			})
			return errKilled
		}
		err := run.Step(ctx, "prepare", func(context.Context) error {
			t.Error("a cancelled job ran its task")
			return nil
		})
		var made string
		if ok, loadErr := run.Load(&made); !ok || loadErr != nil {
			t.Errorf("nothing to undo was loaded: %v", loadErr)
		}
		undone <- context.Cause(ctx)
		return err
	})
	first := w.start(nil)
	id := first.submit("a")
	first.until(id, func(j backstay.Job) bool { return j.Tasks[0].State == backstay.TaskRunning })
	if j, err := first.Cancel(t.Context(), id); err != nil || j.State != backstay.JobCancelling {
		t.Fatalf("job %s, error %v", j.State, err)
	}
	first.kill()
	second := w.start(nil)
	j := second.ended(id)
	if err := <-undone; !errors.Is(err, backstay.ErrCancelled) {
		t.Errorf("the second life's context ended with %v", err)
	}
	if j.State != backstay.JobCancelled || taskStates(j) != "undone skipped skipped " {
		t.Errorf("job %+v", j)
	}
}

func TestAnOldLifeCannotWriteAndItsRunnerIsTold(t *testing.T) {
	ended := make(chan error, 1)
	wrote := make(chan error, 1)
	goOn := make(chan struct{})
	var lives atomic.Int64
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		if lives.Add(1) > 1 {
			return nil
		}
		<-goOn
		wrote <- run.Save("late")
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	})
	first := w.start(func(o *job.Options) { o.Owner = "first" })
	id := first.submit("a")
	first.until(id, is(backstay.JobRunning))
	// The first server is not dead, only forgotten: the second claims its job.
	second := w.start(func(o *job.Options) { o.Owner = "second" })
	j := second.ended(id)
	close(goOn)
	if err := <-wrote; err == nil {
		t.Error("the old life wrote its state")
	}
	if err := <-ended; !errors.Is(err, backstay.ErrStopping) {
		t.Errorf("the old life's context ended with %v: it must leave everything as it is", err)
	}
	first.Stop()
	rec, err := w.catalog.Jobs.Job(t.Context(), id)
	if err != nil || rec.Job.State != j.State || rec.State != nil {
		t.Errorf("record %+v, error %v", rec, err)
	}
}

func TestAJobThatCrashesTheServerAgainAndAgainIsGivenUp(t *testing.T) {
	stuck := make(chan struct{})
	defer close(stuck)
	var ran, undid atomic.Int64
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		if ctx.Err() != nil {
			undid.Add(1)
			return context.Cause(ctx)
		}
		ran.Add(1)
		<-stuck
		return errKilled
	})
	id := w.server(nil).submit("a")
	for life := range int64(3) {
		s := w.start(func(o *job.Options) { o.MaxAttempts = 3 })
		for ran.Load() <= life {
			time.Sleep(time.Millisecond)
		}
		s.kill()
	}
	s := w.start(func(o *job.Options) { o.MaxAttempts = 3 })
	j := s.ended(id)
	if j.State != backstay.JobFailed || j.Error.Code != backstay.CodeJobCrashes || ran.Load() != 3 || undid.Load() != 1 {
		t.Errorf("job %s with %v, ran %d times, undid %d times", j.State, j.Error, ran.Load(), undid.Load())
	}
}

func TestStopsDoNotCountAsCrashes(t *testing.T) {
	var lives atomic.Int64
	w := newWorld(t, nil)
	w.runner = steps(does{"transfer": func(ctx context.Context, run backstay.Run) error {
		if lives.Add(1) == 5 {
			return nil
		}
		<-ctx.Done()
		return ctx.Err()
	}})
	id := w.server(nil).submit("a")
	for life := range int64(4) {
		s := w.start(func(o *job.Options) { o.MaxAttempts = 1 })
		for lives.Load() <= life {
			time.Sleep(time.Millisecond)
		}
		s.Stop()
	}
	s := w.start(func(o *job.Options) { o.MaxAttempts = 1 })
	if j := s.ended(id); j.State != backstay.JobSucceeded {
		t.Errorf("the job ended as %s: %v", j.State, j.Error)
	}
}
