package job_test

import (
	"context"
	"fmt"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/job"
)

func TestAnotherServerTakesAJobOverWhenItsLockRanOutAndNotBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var lives atomic.Int64
		w := newSlowWorld(t, nil)
		w.runner = steps(does{"transfer": func(ctx context.Context, _ backstay.Run) error {
			if lives.Add(1) == 1 {
				<-ctx.Done()
				return ctx.Err()
			}
			return nil
		}})
		shared := func(owner string) func(*job.Options) {
			return func(o *job.Options) { o.Owner, o.Exclusive = owner, false }
		}
		one := w.start(shared("one"))
		id := one.submit("a")
		time.Sleep(5 * time.Minute) // the lock is kept while its holder lives
		two := w.start(shared("two"))
		time.Sleep(5 * time.Minute)
		if lives.Load() != 1 {
			t.Fatal("a living server lost its job")
		}
		killed := time.Now()
		one.kill()
		j := two.ended(id)
		waited := time.Since(killed)
		if j.State != backstay.JobSucceeded || lives.Load() != 2 {
			t.Errorf("job %s after %d lives", j.State, lives.Load())
		}
		if waited < 20*time.Second || waited > 35*time.Second {
			t.Errorf("it was taken over after %v, with a lock of 30 s", waited)
		}
	})
}

func TestAServerThatCannotReachTheCatalogueGivesItsJobsUpWithItsLock(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ended := make(chan error, 1)
		w := newSlowWorld(t, func(ctx context.Context, _ backstay.Run) error {
			<-ctx.Done()
			ended <- context.Cause(ctx)
			return ctx.Err()
		})
		s := w.start(nil)
		s.until(s.submit("a"), is(backstay.JobRunning))
		cut := time.Now()
		s.kill()
		err := <-ended
		if since := time.Since(cut); err == nil || since > 40*time.Second {
			t.Errorf("the runner was told %v after %v", err, since)
		}
	})
}

// newSlowWorld is a world whose servers poll as seldom as real ones: its hours
// pass in no time.
func newSlowWorld(t *testing.T, runner job.Runner) *world {
	w := newWorld(t, runner)
	w.poll = 2 * time.Second
	return w
}

// countingJobs counts the writes.
type countingJobs struct {
	catalog.Jobs
	updates atomic.Int64
}

func (c *countingJobs) UpdateJob(ctx context.Context, id backstay.JobID, fence int64, change func(*catalog.JobRecord) error) (catalog.JobRecord, error) {
	c.updates.Add(1)
	return c.Jobs.UpdateJob(ctx, id, fence, change)
}

func TestProgressIsWrittenOnceASecondAndShownFiveTimes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWorld(t, func(_ context.Context, run backstay.Run) error {
			for n := range int64(20_000) { // for 20 s, every millisecond
				run.Progress(n*1000, 20_000_000)
				time.Sleep(time.Millisecond)
			}
			return nil
		})
		counting := &countingJobs{Jobs: w.catalog.Jobs}
		w.catalog.Jobs = counting
		s := w.start(nil)
		id := s.submit("a")
		changes, err := s.Follow(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		shown, written, estimated := 0, false, false
		for j := range changes {
			shown++
			if j.EtaSeconds != nil && j.BytesPerSecond > 900_000 && j.BytesPerSecond < 1_100_000 {
				estimated = true
			}
			if rec, err := w.catalog.Jobs.Job(t.Context(), id); err == nil && rec.BytesDone > 10_000_000 && !rec.Job.State.Ended() {
				written = true
			}
		}
		// Five a second, and the writes, which are shown too unless they coincide.
		if shown < 80 || shown > 125 {
			t.Errorf("shown %d times in 20 s", shown)
		}
		if n := counting.updates.Load(); n < 15 || n > 25 {
			t.Errorf("written %d times in 20 s", n)
		}
		if !written || !estimated {
			t.Errorf("progress in the catalogue: %v, an estimate: %v", written, estimated)
		}
	})
}

func TestAJobOnAnotherServerCanBeFollowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWorld(t, steps(does{"transfer": func(_ context.Context, run backstay.Run) error {
			for n := range int64(20) {
				run.Progress(n, 20)
				time.Sleep(time.Second)
			}
			return nil
		}}))
		one := w.start(nil)
		id := one.submit("a")
		other := w.server(nil) // never started: it only looks
		changes, err := other.Follow(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		seen, last := 0, backstay.Job{}
		for last = range changes {
			seen++
		}
		if seen < 10 || last.State != backstay.JobSucceeded {
			t.Errorf("seen %d changes, the last %s", seen, last.State)
		}
	})
}

func TestASlowReaderStillSeesTheEnd(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWorld(t, steps(does{"transfer": func(context.Context, backstay.Run) error { time.Sleep(time.Minute); return nil }}))
		s := w.start(nil)
		changes, err := s.Follow(t.Context(), s.submit("a"))
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(10 * time.Minute)
		var last backstay.Job
		n := 0
		for last = range changes {
			n++
		}
		if last.State != backstay.JobSucceeded || n > 3 {
			t.Errorf("%d snapshots, the last %s", n, last.State)
		}
	})
}

func TestFollowersEndWithTheQueueAndWithTheirOwnContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := newSlowWorld(t, steps(does{"transfer": hold(nil)}))
		s := w.start(nil)
		id := s.submit("a")
		ctx, leave := context.WithCancel(t.Context())
		own, err := s.Follow(ctx, id)
		if err != nil {
			t.Fatal(err)
		}
		queues, err := s.Follow(t.Context(), id)
		if err != nil {
			t.Fatal(err)
		}
		leave()
		drain(own)
		go s.Stop()
		drain(queues)
	})
}

func drain(changes <-chan backstay.Job) {
	for range changes {
		continue
	}
}

func TestLimitsQueueRatherThanFail(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now, most atomic.Int64
		w := newSlowWorld(t, func(context.Context, backstay.Run) error {
			most.Store(max(most.Load(), now.Add(1)))
			time.Sleep(10 * time.Second)
			now.Add(-1)
			return nil
		})
		s := w.start(func(o *job.Options) { o.Limits = job.Limits{PerHost: 2, PerVault: 9} })
		var ids []backstay.JobID
		for n := range 6 {
			ids = append(ids, s.submit(backstay.VMID(fmt.Sprint("vm", n)), func(r *job.Request) { r.Host = "h1" }))
		}
		time.Sleep(time.Second)
		j, err := s.Get(t.Context(), ids[2])
		want := fmt.Sprintf("waits for a slot on host h1: 2 of 2 taken by job %s, job %s", ids[0], ids[1])
		if err != nil || j.State != backstay.JobQueued || j.Waiting != want {
			t.Errorf("waiting %q, want %q; error %v", j.Waiting, want, err)
		}
		var last time.Time
		for _, id := range ids {
			j := s.ended(id)
			if j.State != backstay.JobSucceeded || j.Waiting != "" || j.Started.Before(last) {
				t.Errorf("job %+v", j)
			}
			last = *j.Started
		}
		if most.Load() != 2 {
			t.Errorf("at most %d ran at once", most.Load())
		}
	})
}

func TestOneJobAtATimeChangesAVM(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var now atomic.Int64
		w := newSlowWorld(t, func(context.Context, backstay.Run) error {
			if now.Add(1) > 1 {
				t.Error("two jobs at once")
			}
			time.Sleep(time.Second)
			now.Add(-1)
			return nil
		})
		// Two servers, neither of which knows what the other is about to claim.
		shared := func(owner string) func(*job.Options) {
			return func(o *job.Options) { o.Owner, o.Exclusive = owner, false }
		}
		one, two := w.start(shared("one")), w.start(shared("two"))
		var ids []backstay.JobID
		for n := range 10 {
			ids = append(ids, []*server{one, two}[n%2].submit("a"))
		}
		for _, id := range ids {
			if j := one.ended(id); j.State != backstay.JobSucceeded {
				t.Errorf("job %s", j.State)
			}
		}
	})
}

// region is a scheduler over a queue of fake backups.
type region struct {
	*server
	backups, expiries atomic.Int64
	fails             atomic.Bool
	transfer          atomic.Int64 // how long a job goes on without its VM
}

func newRegion(t *testing.T, takes time.Duration) *region {
	t.Helper()
	r := &region{}
	w := newSlowWorld(t, nil)
	w.runner = func(ctx context.Context, run backstay.Run) error {
		r.backups.Add(1)
		time.Sleep(takes)
		if r.fails.Load() {
			return backstay.Errorf(backstay.CodeHostAway, "away")
		}
		now := time.Now()
		p := backstay.RecoveryPoint{ID: backstay.PointID(run.Job().ID), VM: backstay.VMRef{UUID: "a"}, Time: now}
		p.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
		if err := w.catalog.Points.PutPoint(context.WithoutCancel(ctx), p); err != nil || r.transfer.Load() == 0 {
			return err
		}
		if err := run.(backstay.LongRun).FreeVMs(); err != nil {
			return err
		}
		time.Sleep(time.Duration(r.transfer.Load()))
		return nil
	}
	r.server = w.start(func(o *job.Options) { o.Poll = time.Minute })
	for _, err := range []error{
		w.catalog.Policies.CreatePolicy(t.Context(), backstay.Policy{Name: "hourly", Every: backstay.Duration(time.Hour)}),
		w.catalog.Vaults.CreateVault(t.Context(), backstay.Vault{Name: "main"}),
		w.catalog.Items.PutItem(t.Context(), backstay.ProtectedItem{VM: backstay.VMRef{UUID: "a"}, Policy: "hourly", Vault: "main", Since: time.Now()}),
	} {
		if err != nil {
			t.Fatal(err)
		}
	}
	scheduler := job.NewScheduler(job.Schedule{
		Catalog: w.catalog, Tick: time.Minute,
		Backup: func(_ context.Context, item backstay.ProtectedItem) error {
			r.submit(item.VM.UUID)
			return nil
		},
		Expire: func(context.Context, backstay.ProtectedItem) error { r.expiries.Add(1); return nil },
	})
	ctx, end := context.WithCancel(t.Context())
	over := make(chan struct{})
	go func() {
		defer close(over)
		scheduler.Run(ctx)
	}()
	t.Cleanup(func() {
		end()
		<-over
	})
	return r
}

func TestTheSchedulerTakesAPointEachInterval(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, 5*time.Minute)
		time.Sleep(8*time.Hour - time.Minute)
		if n := r.backups.Load(); n != 8 {
			t.Errorf("%d backups in eight hours", n)
		}
		if n := r.expiries.Load(); n < 8 || n > 10 {
			t.Errorf("expiry was asked for %d times", n)
		}
	})
}

func TestAtMostOneBackupOfAnItemIsPending(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, 90*time.Minute)
		for range 6*12 - 1 {
			time.Sleep(5 * time.Minute)
			active, err := r.List(t.Context(), 0, backstay.JobQueued, backstay.JobRunning)
			if err != nil || len(active) > 1 {
				t.Fatalf("%d backups are pending, error %v", len(active), err)
			}
		}
		if n := r.backups.Load(); n != 3 {
			t.Errorf("%d backups of an hour and a half in six hours", n)
		}
	})
}

func TestAfterAnOutageTheMissedBackupsAreOne(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		r := newRegion(t, time.Second)
		r.fails.Store(true)
		time.Sleep(5*time.Hour + time.Minute)
		if n := r.backups.Load(); n < 15 || n > 23 {
			t.Errorf("%d tries in five hours: want about one each quarter", n)
		}
		r.fails.Store(false)
		r.backups.Store(0)
		time.Sleep(50 * time.Minute)
		if n := r.backups.Load(); n != 1 {
			t.Errorf("%d backups after the outage", n)
		}
	})
}
