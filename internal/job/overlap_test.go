package job_test

import (
	"context"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/job"
)

// TestFreedVMsStayFreeInTheNextLife: a job that let go of its VM keeps no other
// out, neither in the life in which it did nor after a kill.
func TestFreedVMsStayFreeInTheNextLife(t *testing.T) {
	never := make(chan struct{})
	w := newWorld(t, nil)
	w.runner = func(ctx context.Context, run backstay.Run) error {
		if run.Job().User == "long" {
			if err := run.(backstay.LongRun).FreeVMs(); err != nil {
				return err
			}
			return steps(does{"transfer": hold(never)})(ctx, run)
		}
		return steps(nil)(ctx, run)
	}
	first := w.start(func(o *job.Options) { o.Owner = "first" })
	long := first.submit("a", func(r *job.Request) { r.User = "long" })
	transfers := func(j backstay.Job) bool { return j.Tasks[1].State == backstay.TaskRunning }
	first.until(long, transfers)
	if j := first.ended(first.submit("a")); j.State != backstay.JobSucceeded {
		t.Errorf("beside the first: %s", j.State)
	}
	first.kill()
	second := w.start(func(o *job.Options) { o.Owner = "second" })
	second.until(long, transfers)
	if j := second.ended(second.submit("a")); j.State != backstay.JobSucceeded {
		t.Errorf("after a kill: %s", j.State)
	}
}

func TestAJobThatWantsToBeAloneIsRefusedAndTheOtherOneNamed(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.server(nil) // nothing runs: what is submitted waits
	alone := func(r *job.Request) { r.Alone = true }
	first := s.submit("a", alone)
	r := job.Request{Kind: backstay.JobBackup, Target: "h1/a", VMs: []backstay.VMID{"b", "a"}, Alone: true}
	if _, err := s.Submit(t.Context(), r); !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), string(first)) {
		t.Errorf("error %v", err)
	}
	r.VMs = []backstay.VMID{"b"}
	if _, err := s.Submit(t.Context(), r); err != nil {
		t.Errorf("of another VM: %v", err)
	}
}

func TestASkippedTaskIsNotRunAndSaysWhy(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		if err := run.(backstay.LongRun).Skip("transfer", "nothing changed"); err != nil {
			return err
		}
		return steps(does{"transfer": func(context.Context, backstay.Run) error {
			t.Error("a skipped task ran")
			return nil
		}})(ctx, run)
	})
	s := w.start(nil)
	j := s.ended(s.submit("a"))
	if j.State != backstay.JobSucceeded || taskStates(j) != "succeeded skipped succeeded " || j.Tasks[1].Detail != "nothing changed" {
		t.Errorf("job %s, tasks %+v", j.State, j.Tasks)
	}
}

// TestASnapshotIsTakenOnTimeAlsoWhileATransferRuns: transfers that take longer
// than the interval cost no point; expiries wait for them.
func TestASnapshotIsTakenOnTimeAlsoWhileATransferRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, 0)
		r.transfer.Store(int64(90 * time.Minute))
		time.Sleep(4*time.Hour + 30*time.Minute)
		if n := r.backups.Load(); n != 5 {
			t.Errorf("%d points in four hours and a half", n)
		}
		if n := r.expiries.Load(); n > 1 {
			t.Errorf("expiry was asked for %d times during transfers", n)
		}
	})
}
