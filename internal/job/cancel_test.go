package job_test

import (
	"context"
	"errors"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/job"
)

func TestAQueuedJobIsCancelledAtOnce(t *testing.T) {
	w := newWorld(t, func(_ context.Context, run backstay.Run) error {
		if run.Job().Target == "h1/a" {
			t.Error("a cancelled job ran")
		}
		return nil
	})
	s := w.server(nil)
	id := s.submit("a")
	j, err := s.Cancel(t.Context(), id)
	if err != nil || j.State != backstay.JobCancelled || j.Ended == nil || taskStates(j) != "skipped skipped skipped " {
		t.Errorf("job %+v, error %v", j, err)
	}
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	defer s.Stop()
	s.ended(s.submit("b"))
	if j := s.ended(id); j.State != backstay.JobCancelled {
		t.Errorf("job %s", j.State)
	}
	if _, err := s.Cancel(t.Context(), id); !backstay.IsCode(err, backstay.CodeJobEnded) {
		t.Errorf("error %v", err)
	}
}

func TestARunningJobCanBeCancelledInEveryTask(t *testing.T) {
	for name, want := range map[string]string{
		"prepare":  "undone skipped skipped ",
		"transfer": "succeeded undone skipped ",
		"validate": "succeeded succeeded undone ",
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t, nil)
			w.runner = steps(does{name: hold(nil)})
			s := w.start(nil)
			id := s.submit("a")
			s.until(id, func(j backstay.Job) bool {
				for _, task := range j.Tasks {
					if task.Name == name {
						return task.State == backstay.TaskRunning
					}
				}
				return false
			})
			if _, err := s.Cancel(t.Context(), id); err != nil {
				t.Fatal(err)
			}
			j := s.ended(id)
			if j.State != backstay.JobCancelled || j.Error.Code != backstay.CodeCancelled || taskStates(j) != want || len(j.Warnings) != 0 {
				t.Errorf("job %+v", j)
			}
		})
	}
}

func TestAJobHeldBeforeAStepCanBeCancelled(t *testing.T) {
	w := newWorld(t, steps(nil))
	held := make(chan string, 1)
	s := w.start(func(o *job.Options) {
		o.OnStep = func(ctx context.Context, j backstay.Job, step string) {
			if step == "transfer" {
				held <- taskStates(j)
				<-ctx.Done()
			}
		}
	})
	id := s.submit("a")
	if tasks := <-held; tasks != "succeeded pending pending " {
		t.Errorf("held with the tasks %s", tasks)
	}
	if _, err := s.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if j := s.ended(id); j.State != backstay.JobCancelled || taskStates(j) != "succeeded skipped skipped " {
		t.Errorf("job %+v", j)
	}
}

func TestACancelSaysWhenUndoingFailed(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		<-ctx.Done()
		if !errors.Is(context.Cause(ctx), backstay.ErrCancelled) {
			return ctx.Err()
		}
		return backstay.Errorf(backstay.CodeHostAway, "overlay of vda was not removed")
	})
	s := w.start(nil)
	id := s.submit("a")
	s.until(id, is(backstay.JobRunning))
	if _, err := s.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	j := s.ended(id)
	if j.State != backstay.JobCancelled || len(j.Warnings) != 1 || !contains(j.Warnings[0], "overlay of vda") {
		t.Errorf("job %+v", j)
	}
}

func TestAJobThatIsDoneBeforeTheCancelReachesItHasSucceeded(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		<-ctx.Done()
		return nil
	})
	s := w.start(nil)
	id := s.submit("a")
	s.until(id, is(backstay.JobRunning))
	if _, err := s.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if j := s.ended(id); j.State != backstay.JobSucceeded {
		t.Errorf("job %s", j.State)
	}
}

func TestACancelReachesAJobOnAnotherServer(t *testing.T) {
	w := newWorld(t, nil)
	w.runner = steps(does{"transfer": hold(nil)})
	one := w.start(func(o *job.Options) { o.Owner, o.Exclusive, o.Lease = "one", false, 3e9 })
	id := one.submit("a")
	one.until(id, func(j backstay.Job) bool { return j.Tasks[1].State == backstay.TaskRunning })
	two := w.start(func(o *job.Options) { o.Owner, o.Exclusive, o.Runners = "two", false, nil })
	if _, err := two.Cancel(t.Context(), id); err != nil {
		t.Fatal(err)
	}
	if j := two.ended(id); j.State != backstay.JobCancelled {
		t.Errorf("job %s", j.State)
	}
}
