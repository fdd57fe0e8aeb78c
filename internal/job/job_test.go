package job_test

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/job"
)

// world is a catalogue and the servers that share it.
type world struct {
	t       *testing.T
	catalog *catalog.Catalog
	runner  job.Runner // of backup jobs
	log     *logged
	poll    time.Duration
}

func newWorld(t *testing.T, runner job.Runner) *world {
	t.Helper()
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalogue.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	})
	return &world{t: t, catalog: c, runner: runner, log: &logged{}, poll: 20 * time.Millisecond}
}

// logged keeps the log's text.
type logged struct {
	mu   sync.Mutex
	text []byte // guarded by mu
}

func (l *logged) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.text = append(l.text, p...)
	return len(p), nil
}

func (l *logged) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return string(l.text)
}

// server makes a queue; each has a life of its own that kill ends.
func (w *world) server(change func(*job.Options)) *server {
	w.t.Helper()
	s := &server{w: w, dead: &deadJobs{Jobs: w.catalog.Jobs}}
	own := *w.catalog
	own.Jobs = s.dead
	opts := job.Options{
		Catalog: &own, Region: "here", Poll: w.poll, Exclusive: true,
		Runners: map[backstay.JobKind]job.Runner{backstay.JobBackup: w.runner},
		Tasks:   map[backstay.JobKind][]string{backstay.JobBackup: {"prepare", "transfer", "validate"}},
		Log:     slog.New(slog.NewTextHandler(w.log, nil)),
	}
	if change != nil {
		change(&opts)
	}
	q, err := job.New(opts)
	if err != nil {
		w.t.Fatal(err)
	}
	s.Queue = q
	return s
}

// start makes a queue and starts it; it is stopped at the end of the test.
func (w *world) start(change func(*job.Options)) *server {
	w.t.Helper()
	s := w.server(change)
	if err := s.Start(w.t.Context()); err != nil {
		w.t.Fatal(err)
	}
	w.t.Cleanup(func() {
		s.kill()
		s.Stop()
	})
	return s
}

type server struct {
	*job.Queue
	w    *world
	dead *deadJobs
}

// kill is a kill -9 as the catalogue sees it: nothing that this server still
// does reaches it.
func (s *server) kill() { s.dead.dead.Store(true) }

// deadJobs is the catalogue as a server sees it that may be killed.
type deadJobs struct {
	catalog.Jobs
	dead atomic.Bool
}

var errKilled = errors.New("this server was killed")

func (d *deadJobs) UpdateJob(ctx context.Context, id backstay.JobID, fence int64, change func(*catalog.JobRecord) error) (catalog.JobRecord, error) {
	if d.dead.Load() {
		return catalog.JobRecord{}, errKilled
	}
	return d.Jobs.UpdateJob(ctx, id, fence, change)
}

func (d *deadJobs) ExtendJob(ctx context.Context, id backstay.JobID, fence int64, until time.Time) (backstay.JobState, error) {
	if d.dead.Load() {
		return "", errKilled
	}
	return d.Jobs.ExtendJob(ctx, id, fence, until)
}

func (d *deadJobs) ClaimJob(ctx context.Context, id backstay.JobID, owner string, now, until time.Time) (catalog.JobRecord, error) {
	if d.dead.Load() {
		return catalog.JobRecord{}, errKilled
	}
	return d.Jobs.ClaimJob(ctx, id, owner, now, until)
}

func (s *server) submit(vm backstay.VMID, change ...func(*job.Request)) backstay.JobID {
	s.w.t.Helper()
	r := job.Request{Kind: backstay.JobBackup, Target: "h1/" + string(vm), User: "ann", Params: map[string]string{"vm": string(vm)}}
	if vm != "" {
		r.VMs = []backstay.VMID{vm}
	}
	for _, c := range change {
		c(&r)
	}
	j, err := s.Submit(s.w.t.Context(), r)
	if err != nil {
		s.w.t.Fatal(err)
	}
	return j.ID
}

// until follows the job until it is as wished, and returns it.
func (s *server) until(id backstay.JobID, wish func(backstay.Job) bool) backstay.Job {
	s.w.t.Helper()
	ctx, done := context.WithTimeout(s.w.t.Context(), time.Minute)
	defer done()
	changes, err := s.Follow(ctx, id)
	if err != nil {
		s.w.t.Fatal(err)
	}
	var last backstay.Job
	for last = range changes {
		if wish(last) {
			return last
		}
	}
	s.w.t.Fatalf("job did not become as wished; it stands at %+v", last)
	return last
}

func (s *server) ended(id backstay.JobID) backstay.Job {
	s.w.t.Helper()
	return s.until(id, func(j backstay.Job) bool { return j.State.Ended() })
}

func is(state backstay.JobState) func(backstay.Job) bool {
	return func(j backstay.Job) bool { return j.State == state }
}

func taskStates(j backstay.Job) string {
	text := ""
	for _, t := range j.Tasks {
		text += string(t.State) + " "
	}
	return text
}

// steps runs the three tasks; each does what the map has for it.
func steps(tasks does) job.Runner {
	return func(ctx context.Context, run backstay.Run) error {
		for _, name := range []string{"prepare", "transfer", "validate"} {
			err := run.Step(ctx, name, func(ctx context.Context) error {
				if do := tasks[name]; do != nil {
					return do(ctx, run)
				}
				return nil
			})
			if err != nil {
				return err
			}
		}
		return nil
	}
}

// hold blocks until release is closed or ctx ends.
func hold(release <-chan struct{}) func(context.Context, backstay.Run) error {
	return func(ctx context.Context, _ backstay.Run) error {
		select {
		case <-release:
			return nil
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
}

func TestAJobIsDurableBeforeSubmitReturns(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.server(nil)
	id := s.submit("a")
	s.kill()
	next := w.start(nil)
	j := next.ended(id)
	if j.State != backstay.JobSucceeded || j.Percent != 100 || taskStates(j) != "succeeded succeeded succeeded " {
		t.Errorf("job %+v", j)
	}
	if j.Started == nil || j.Ended == nil || j.Region != "here" || j.User != "ann" || j.Error != nil {
		t.Errorf("job %+v", j)
	}
}

func TestAQueuedJobShowsItsTasks(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.server(nil)
	j, err := s.Get(t.Context(), s.submit("a"))
	if err != nil || j.State != backstay.JobQueued || taskStates(j) != "pending pending pending " {
		t.Errorf("job %+v, error %v", j, err)
	}
}

func TestTheRunnerGetsTheParameters(t *testing.T) {
	var got map[string]string
	w := newWorld(t, func(_ context.Context, run backstay.Run) error { return job.Params(run, &got) })
	s := w.start(nil)
	s.ended(s.submit("a"))
	if got["vm"] != "a" {
		t.Errorf("parameters %v", got)
	}
}

func TestWarningsMakeTheJobEndAsWarning(t *testing.T) {
	w := newWorld(t, steps(does{
		"transfer": func(_ context.Context, run backstay.Run) error { return run.Warn("no agent") },
	}))
	s := w.start(nil)
	j := s.ended(s.submit("a"))
	if j.State != backstay.JobWarning || len(j.Warnings) != 1 || j.Error != nil || j.Percent != 100 {
		t.Errorf("job %+v", j)
	}
}

func TestAFailedJobSaysWhichTaskFailedAndWhy(t *testing.T) {
	full := backstay.Errorf(backstay.CodeVaultFull, "vault main is full").Becausef("0 bytes are left")
	w := newWorld(t, steps(does{
		"transfer": func(context.Context, backstay.Run) error { return full },
	}))
	s := w.start(nil)
	j := s.ended(s.submit("a"))
	if j.State != backstay.JobFailed || taskStates(j) != "succeeded failed skipped " || j.Tasks[1].Ended == nil {
		t.Errorf("job %+v", j)
	}
	if j.Error == nil || j.Error.Code != backstay.CodeVaultFull || j.Error.Cause != full.Cause || j.Error.Action != full.Action {
		t.Errorf("error %+v", j.Error)
	}
}

func TestAnUncodedErrorIsInternalAndItsTextStaysInTheLog(t *testing.T) {
	w := newWorld(t, steps(does{
		"transfer": func(context.Context, backstay.Run) error { return errors.New("inner detail 4711") },
	}))
	s := w.start(nil)
	j := s.ended(s.submit("a"))
	if j.State != backstay.JobFailed || j.Error.Code != backstay.CodeInternal {
		t.Errorf("job %+v", j)
	}
	if shown(t, j, "4711") {
		t.Errorf("the job shows the inner detail: %+v", j)
	}
	if !contains(w.log.String(), "4711") {
		t.Error("the log has no detail of the error")
	}
}

func TestAPanicFailsTheJobAndNotTheServer(t *testing.T) {
	w := newWorld(t, func(ctx context.Context, run backstay.Run) error {
		return run.Step(ctx, "prepare", func(context.Context) error {
			if run.Job().Target == "h1/bad" {
				panic("4711")
			}
			return nil
		})
	})
	s := w.start(nil)
	j := s.ended(s.submit("bad"))
	if j.State != backstay.JobFailed || j.Error.Code != backstay.CodeInternal || taskStates(j) != "failed skipped skipped " || shown(t, j, "4711") {
		t.Errorf("job %+v", j)
	}
	if !contains(w.log.String(), "job_test.go") {
		t.Error("the log has no stack")
	}
	if j := s.ended(s.submit("good")); j.State != backstay.JobSucceeded {
		t.Errorf("the next job ended as %s", j.State)
	}
}

func TestASecondStartAndASecondStopDoNothing(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.start(nil)
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	s.ended(s.submit("a"))
	s.Stop()
	s.Stop()
	id := s.submit("b")
	if err := s.Start(t.Context()); err != nil {
		t.Fatal(err)
	}
	if j := s.ended(id); j.State != backstay.JobSucceeded {
		t.Errorf("after a stop and a start the job ended as %s", j.State)
	}
}

func TestARetryIsANewJobWithTheSameParameters(t *testing.T) {
	var fail atomic.Bool
	fail.Store(true)
	var params []string
	w := newWorld(t, func(_ context.Context, run backstay.Run) error {
		var p map[string]string
		if err := job.Params(run, &p); err != nil {
			return err
		}
		params = append(params, p["vm"]) // one run at a time: same VM
		if fail.Load() {
			return backstay.Errorf(backstay.CodeVaultAway, "away")
		}
		return nil
	})
	s := w.start(nil)
	first := s.ended(s.submit("a", func(r *job.Request) { r.Host, r.Vault = "h1", "main" }))
	fail.Store(false)
	second, err := s.Retry(t.Context(), first.ID, "bob")
	if err != nil {
		t.Fatal(err)
	}
	j := s.ended(second.ID)
	if j.ID == first.ID || j.Retries != first.ID || j.User != "bob" || j.State != backstay.JobSucceeded || j.Target != first.Target {
		t.Errorf("job %+v", j)
	}
	if len(params) != 2 || params[1] != "a" {
		t.Errorf("parameters %v", params)
	}
	rec, err := w.catalog.Jobs.Job(t.Context(), j.ID)
	if err != nil || rec.Host != "h1" || rec.Vault != "main" || len(rec.VMs) != 1 {
		t.Errorf("record %+v, error %v", rec, err)
	}
}

// A restore that ran again would shut its VM down, and put it on disks of a plan
// that is of another time.
func TestARestoreThatSucceededIsNotRunAgain(t *testing.T) {
	fail := false
	w := newWorld(t, func(context.Context, backstay.Run) error {
		if fail {
			return backstay.Errorf(backstay.CodeVaultAway, "away")
		}
		return nil
	})
	s := w.start(func(o *job.Options) {
		for _, kind := range []backstay.JobKind{backstay.JobRestore, backstay.JobDeploy, backstay.JobUndo} {
			o.Runners[kind], o.Tasks[kind] = w.runner, []string{"plan"}
		}
	})
	for _, kind := range []backstay.JobKind{backstay.JobRestore, backstay.JobDeploy, backstay.JobUndo} {
		for _, fail = range []bool{false, true} {
			first := s.ended(s.submit("a", func(r *job.Request) { r.Kind = kind }))
			again, err := s.Retry(t.Context(), first.ID, "bob")
			if fail {
				if err != nil {
					t.Errorf("%s that %s: %v", kind, first.State, err)
				}
				s.ended(again.ID)
			} else if !backstay.IsCode(err, backstay.CodeJobEnded) {
				t.Errorf("%s that %s was run again as %q: %v", kind, first.State, again.ID, err)
			}
		}
	}
}

func TestAJobThatHasNotEndedIsNotRetried(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.server(nil)
	if _, err := s.Retry(t.Context(), s.submit("a"), "bob"); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("error %v", err)
	}
}

func TestUnknownJobsAndKindsAreSaid(t *testing.T) {
	w := newWorld(t, steps(nil))
	s := w.server(nil)
	_, get := s.Get(t.Context(), "none")
	_, cancel := s.Cancel(t.Context(), "none")
	_, retry := s.Retry(t.Context(), "none", "ann")
	_, follow := s.Follow(t.Context(), "none")
	for what, err := range map[string]error{"get": get, "cancel": cancel, "retry": retry, "follow": follow} {
		if !backstay.IsCode(err, backstay.CodeUnknownJob) {
			t.Errorf("%s: error %v", what, err)
		}
	}
	if _, err := s.Submit(t.Context(), job.Request{Kind: "dance"}); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("submit: error %v", err)
	}
}

func TestUpdateChangesOnlyWhatARunnerMayChange(t *testing.T) {
	w := newWorld(t, func(_ context.Context, run backstay.Run) error {
		return run.Update(func(j *backstay.Job) {
			j.Point, j.Result.Point, j.Stats.BytesNew = "p1", "p1", 7
			j.State, j.User = backstay.JobCancelled, "mallory"
		})
	})
	s := w.start(nil)
	j := s.ended(s.submit("a"))
	if j.Point != "p1" || j.Result.Point != "p1" || j.Stats.BytesNew != 7 || j.State != backstay.JobSucceeded || j.User != "ann" {
		t.Errorf("job %+v", j)
	}
}
