package catalogtest

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const lease = 30 * time.Second

func job(id backstay.JobID, vms ...backstay.VMID) catalog.JobRecord {
	return catalog.JobRecord{
		Job: backstay.Job{ID: id, Kind: backstay.JobBackup, State: backstay.JobQueued, Target: "h1/web01", Created: at,
			Tasks: []backstay.Task{{Name: "prepare", State: backstay.TaskPending}, {Name: "transfer", State: backstay.TaskPending}}, Warnings: []string{}},
		Params: json.RawMessage(`{"vm":"a"}`), VMs: vms, Host: "h1", Vault: "main",
	}
}

func insert(t *testing.T, c *catalog.Catalog, jobs ...catalog.JobRecord) {
	t.Helper()
	for _, j := range jobs {
		must(t, c.Jobs.InsertJob(context.Background(), j))
	}
}

func claim(t *testing.T, c *catalog.Catalog, id backstay.JobID) catalog.JobRecord {
	t.Helper()
	rec, err := c.Jobs.ClaimJob(context.Background(), id, "one", at, at.Add(lease))
	must(t, err)
	return rec
}

func jobComesBack(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	absent[catalog.JobRecord](t)(c.Jobs.Job(ctx, "j1"))
	j := job("j1", "a", "b")
	insert(t, c, j)
	gives(t, j)(c.Jobs.Job(ctx, "j1"))
	wantErr(t, c.Jobs.InsertJob(ctx, j), catalog.ErrExists)

	_, err := c.Jobs.UpdateJob(ctx, "j1", 0, func(rec *catalog.JobRecord) error {
		started, eta := at, int64(7)
		rec.Tasks[0].State, rec.Tasks[0].Started = backstay.TaskRunning, &started
		rec.Tasks = append(rec.Tasks, backstay.Task{Name: "validate", State: backstay.TaskPending})
		rec.State = json.RawMessage(`{"step":1}`)
		rec.EtaSeconds, rec.Error = &eta, backstay.Errorf(backstay.CodeVaultFull, "full")
		return nil
	})
	must(t, err)
	got, err := c.Jobs.Job(ctx, "j1")
	must(t, err)
	if len(got.Tasks) != 3 || got.Tasks[0].State != backstay.TaskRunning || !got.Tasks[0].Started.Equal(at) {
		t.Errorf("tasks %+v", got.Tasks)
	}
	if string(got.State) != `{"step":1}` || *got.EtaSeconds != 7 || got.Error.Code != backstay.CodeVaultFull {
		t.Errorf("record %+v", got)
	}
}

func jobsOrder(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	ids := func(list []catalog.JobRecord, err error) (ids []backstay.JobID) {
		t.Helper()
		must(t, err)
		for _, j := range list {
			ids = append(ids, j.ID)
			if len(j.Tasks) != 2 {
				t.Errorf("job %s is listed with %d tasks", j.ID, len(j.Tasks))
			}
		}
		return ids
	}
	insert(t, c, job("j1"), job("j3"), job("j2"))
	claim(t, c, "j2")
	same(t, ids(c.Jobs.ListJobs(ctx, 0)), []backstay.JobID{"j3", "j2", "j1"})
	same(t, ids(c.Jobs.ListJobs(ctx, 2)), []backstay.JobID{"j3", "j2"})
	same(t, ids(c.Jobs.ListJobs(ctx, 1, backstay.JobQueued, backstay.JobFailed)), []backstay.JobID{"j3"})
	same(t, ids(c.Jobs.ListJobs(ctx, 0, backstay.JobRunning)), []backstay.JobID{"j2"})
}

func claimLocks(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	absent[catalog.JobRecord](t)(c.Jobs.ClaimJob(ctx, "j1", "one", at, at.Add(lease)))
	insert(t, c, job("j1", "a"))
	rec := claim(t, c, "j1")
	if rec.Job.State != backstay.JobRunning || rec.Fence != 1 || rec.Attempt != 1 || rec.LockedBy != "one" ||
		!rec.LockUntil.Equal(at.Add(lease)) || rec.Started == nil || !rec.Started.Equal(at) {
		t.Errorf("claimed %+v", rec)
	}
	gives(t, rec)(c.Jobs.Job(ctx, "j1"))
	for _, owner := range []string{"two", "one"} {
		_, err := c.Jobs.ClaimJob(ctx, "j1", owner, at, at.Add(lease))
		wantErr(t, err, catalog.ErrFenced)
	}
}

func claimRace(t *testing.T, c *catalog.Catalog) {
	insert(t, c, job("j1", "a"))
	var won atomic.Int64
	together(16, func(i int) {
		_, err := c.Jobs.ClaimJob(context.Background(), "j1", fmt.Sprint("server", i), at, at.Add(lease))
		switch {
		case err == nil:
			won.Add(1)
		case !errors.Is(err, catalog.ErrFenced):
			t.Errorf("error %v, want %v", err, catalog.ErrFenced)
		}
	})
	if won.Load() != 1 {
		t.Errorf("%d claims won", won.Load())
	}
}

func claimExpired(t *testing.T, c *catalog.Catalog) {
	insert(t, c, job("j1", "a"))
	first := claim(t, c, "j1")
	later := at.Add(lease)
	rec, err := c.Jobs.ClaimJob(context.Background(), "j1", "two", later, later.Add(lease))
	must(t, err)
	if rec.Fence <= first.Fence || rec.Attempt != 2 || rec.LockedBy != "two" || !rec.Started.Equal(at) {
		t.Errorf("claimed %+v", rec)
	}
}

func claimReleased(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a"))
	first := claim(t, c, "j1")
	_, err := c.Jobs.UpdateJob(ctx, "j1", first.Fence, func(rec *catalog.JobRecord) error {
		rec.Job.State = backstay.JobCancelling
		rec.Release()
		return nil
	})
	must(t, err)
	_, err = c.Jobs.ExtendJob(ctx, "j1", first.Fence, at.Add(lease))
	wantErr(t, err, catalog.ErrFenced)
	rec, err := c.Jobs.ClaimJob(ctx, "j1", "two", at, at.Add(lease))
	must(t, err)
	if rec.Job.State != backstay.JobCancelling {
		t.Errorf("a claim took the job out of cancelling into %s", rec.Job.State)
	}
}

func end(t *testing.T, c *catalog.Catalog, id backstay.JobID, fence int64) {
	t.Helper()
	rec, err := c.Jobs.UpdateJob(context.Background(), id, fence, func(rec *catalog.JobRecord) error {
		rec.Job.State = backstay.JobSucceeded
		return nil
	})
	must(t, err)
	if rec.LockedBy != "" || !rec.LockUntil.IsZero() {
		t.Errorf("an ended job keeps the lock of %s", rec.LockedBy)
	}
}

func claimEnded(t *testing.T, c *catalog.Catalog) {
	insert(t, c, job("j1", "a"))
	end(t, c, "j1", claim(t, c, "j1").Fence)
	_, err := c.Jobs.ClaimJob(context.Background(), "j1", "two", at.Add(time.Hour), at.Add(2*time.Hour))
	wantErr(t, err, catalog.ErrFenced)
}

func claimBusy(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a", "b"), job("j2", "c", "b"), job("j3", "c"))
	first := claim(t, c, "j1")
	_, err := c.Jobs.ClaimJob(ctx, "j2", "two", at, at.Add(lease))
	wantErr(t, err, catalog.ErrBusy)
	rec, err := c.Jobs.Job(ctx, "j2")
	must(t, err)
	if rec.Job.State != backstay.JobQueued || rec.Fence != 0 {
		t.Errorf("a refused claim left %+v", rec)
	}
	third := claim(t, c, "j3") // the refused claim of j2 holds nothing
	// The VMs stay with a job whose lock ran out: its work may be half done.
	_, err = c.Jobs.ClaimJob(ctx, "j2", "two", at.Add(time.Hour), at.Add(2*time.Hour))
	wantErr(t, err, catalog.ErrBusy)
	end(t, c, "j1", first.Fence)
	end(t, c, "j3", third.Fence)
	claim(t, c, "j2")
}

// claimFree frees the VMs of a running job: another may have them at once, and
// the first asks for none when it is claimed again.
func claimFree(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a"), job("j2", "a"))
	first := claim(t, c, "j1")
	_, err := c.Jobs.ClaimJob(ctx, "j2", "two", at, at.Add(lease))
	wantErr(t, err, catalog.ErrBusy)
	_, err = c.Jobs.UpdateJob(ctx, "j1", first.Fence, func(rec *catalog.JobRecord) error {
		rec.VMsFree = true
		rec.Release()
		return nil
	})
	must(t, err)
	claim(t, c, "j2")
	again := claim(t, c, "j1")
	if !again.VMsFree || len(again.VMs) != 1 {
		t.Errorf("claimed again: %+v", again)
	}
	// What the first job writes takes nothing from the second.
	_, err = c.Jobs.UpdateJob(ctx, "j1", again.Fence, func(rec *catalog.JobRecord) error { rec.BytesDone++; return nil })
	must(t, err)
	end(t, c, "j1", again.Fence)
	insert(t, c, job("j3", "a"))
	_, err = c.Jobs.ClaimJob(ctx, "j3", "two", at, at.Add(lease))
	wantErr(t, err, catalog.ErrBusy)
}

func fenced(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a"))
	old := claim(t, c, "j1")
	later := at.Add(lease)
	young, err := c.Jobs.ClaimJob(ctx, "j1", "two", later, later.Add(lease))
	must(t, err)

	_, err = c.Jobs.ExtendJob(ctx, "j1", old.Fence, later.Add(2*lease))
	wantErr(t, err, catalog.ErrFenced)
	_, err = c.Jobs.UpdateJob(ctx, "j1", old.Fence, func(rec *catalog.JobRecord) error {
		rec.Job.State = backstay.JobSucceeded
		return nil
	})
	wantErr(t, err, catalog.ErrFenced)
	gives(t, young)(c.Jobs.Job(ctx, "j1"))
	end(t, c, "j1", young.Fence)
}

func extend(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	_, err := c.Jobs.ExtendJob(ctx, "j1", 1, at)
	wantErr(t, err, catalog.ErrNotFound)
	insert(t, c, job("j1", "a"))
	rec := claim(t, c, "j1")
	gives(t, backstay.JobRunning)(c.Jobs.ExtendJob(ctx, "j1", rec.Fence, at.Add(2*lease)))
	_, err = c.Jobs.UpdateJob(ctx, "j1", 0, func(rec *catalog.JobRecord) error {
		rec.Job.State = backstay.JobCancelling
		return nil
	})
	must(t, err)
	gives(t, backstay.JobCancelling)(c.Jobs.ExtendJob(ctx, "j1", rec.Fence, at.Add(3*lease)))
	_, err = c.Jobs.ClaimJob(ctx, "j1", "two", at.Add(2*lease), at.Add(4*lease))
	wantErr(t, err, catalog.ErrFenced)
}

func updateTransaction(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a"))
	rec := claim(t, c, "j1")
	const n = 20
	together(n, func(i int) {
		_, err := c.Jobs.UpdateJob(ctx, "j1", rec.Fence*int64(i%2), func(rec *catalog.JobRecord) error {
			rec.BytesDone++
			return nil
		})
		check(t, err)
	})
	rec, err := c.Jobs.Job(ctx, "j1")
	must(t, err)
	if rec.BytesDone != n {
		t.Errorf("%d changes are left of %d", rec.BytesDone, n)
	}
}

func updateFails(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	j := job("j1", "a")
	insert(t, c, j)
	refused := errors.New("refused")
	_, err := c.Jobs.UpdateJob(ctx, "j1", 0, func(rec *catalog.JobRecord) error {
		rec.Tasks[0].State, rec.Percent = backstay.TaskFailed, 50
		return refused
	})
	wantErr(t, err, refused)
	gives(t, j)(c.Jobs.Job(ctx, "j1"))
	_, err = c.Jobs.UpdateJob(ctx, "none", 0, func(*catalog.JobRecord) error { return nil })
	wantErr(t, err, catalog.ErrNotFound)
}

func updateKeeps(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	insert(t, c, job("j1", "a"))
	rec := claim(t, c, "j1")
	got, err := c.Jobs.UpdateJob(ctx, "j1", rec.Fence, func(rec *catalog.JobRecord) error {
		rec.ID, rec.Fence = "other", 99
		return nil
	})
	must(t, err)
	if got.ID != "j1" || got.Fence != rec.Fence {
		t.Errorf("the change moved the job to %s, fence %d", got.ID, got.Fence)
	}
}
