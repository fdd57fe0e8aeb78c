package job

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"sync"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Runner carries a job out. When ctx ends, context.Cause says what to do:
// ErrCancelled means undo and return an error, ErrStopping means leave
// everything as it is and return an error, anything else means undo and return
// an error. ctx may have ended before the first call: the job was cancelled in
// an earlier life, whose work is to be undone.
type Runner func(ctx context.Context, run backstay.Run) error

// Limits are how many jobs may run at once on one host and in one vault; more
// of them wait in the queue. 0 means DefaultPerHost and DefaultPerVault.
type Limits struct{ PerHost, PerVault int }

// The limits when none are given.
const (
	DefaultPerHost  = 2
	DefaultPerVault = 4
)

// Options are what a queue needs: Catalog and Runners; the rest has defaults.
type Options struct {
	Catalog *catalog.Catalog
	// Region is written on each job.
	Region  string
	Runners map[backstay.JobKind]Runner
	// Tasks are the names of the tasks that a job of the kind goes through, so
	// that it shows them, pending, from the start.
	Tasks map[backstay.JobKind][]string
	// Weights are how much of a whole job a task of the name is, by experience;
	// 1 for one that is not named. They shape a job's percent and nothing else.
	Weights map[string]int
	Limits  Limits
	// Now is time.Now unless a test says otherwise.
	Now func() time.Time
	// Owner is this server's name in the locks; empty means a random one.
	Owner string
	// Exclusive says that no other server uses the catalogue, so that Start
	// takes up at once whatever was running.
	Exclusive bool
	Log       *slog.Logger
	// OnStep is called before each step of each job, and may block: the job
	// waits there. ctx is the job's.
	OnStep func(ctx context.Context, job backstay.Job, step string)
	// OnState is called after each change of a job's state, with the job, for
	// metrics. It must return quickly.
	OnState func(backstay.Job)
	// Lease is how long a lock holds without a sign of life, 30 s if 0; Poll how
	// often the catalogue is asked for what other servers did, 2 s if 0.
	Lease, Poll time.Duration
	// MaxAttempts is how many crashes in one task a job may be part of before it
	// is given up, 5 if 0.
	MaxAttempts int
}

func (o *Options) setDefaults() {
	if o.Limits.PerHost == 0 {
		o.Limits.PerHost = DefaultPerHost
	}
	if o.Limits.PerVault == 0 {
		o.Limits.PerVault = DefaultPerVault
	}
	if o.Now == nil {
		o.Now = time.Now
	}
	if o.Owner == "" {
		o.Owner = ulid.Make().String()
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Lease == 0 {
		o.Lease = 30 * time.Second
	}
	if o.Poll == 0 {
		o.Poll = 2 * time.Second
	}
	if o.MaxAttempts == 0 {
		o.MaxAttempts = 5
	}
}

// Queue is the queue of one region, as one server works on it. All methods may
// be called concurrently, and all but Start and Stop also while it is stopped.
type Queue struct {
	opts Options
	jobs catalog.Jobs
	kick chan struct{} // capacity 1: something changed, look at the queue

	life    sync.Mutex     // held by Start and Stop
	started bool           // guarded by life
	stop    func()         // guarded by life
	work    sync.WaitGroup // the loop and the runs

	alone sync.Mutex // held while a job that wants to be alone is submitted

	mu      sync.Mutex
	live    map[backstay.JobID]*run                       // guarded by mu
	watches map[backstay.JobID]map[chan struct{}]struct{} // guarded by mu
	stopped chan struct{}                                 // guarded by mu: closed and replaced by Stop
	entropy *ulid.MonotonicEntropy                        // guarded by mu
	newest  uint64                                        // guarded by mu: of the ids' times, in ms
}

// Request asks for a job.
type Request struct {
	Kind   backstay.JobKind
	Target string           // the VM, as HOST/NAME
	Point  backstay.PointID // the point that is read, if any
	User   string
	Params any // kept as JSON; no secret
	// VMs are the VMs that the job may change; Host and Vault the slots that it
	// takes. Each may be empty.
	VMs     []backstay.VMID
	Host    backstay.HostName
	Vault   backstay.VaultName
	Retries backstay.JobID
	// Alone: refuse with CodeConflict, rather than queue, while another job of the
	// kind has one of the VMs or waits for it.
	Alone bool
	// Urgent jobs go ahead of all queued ones, and need no slot.
	Urgent bool
	// Tasks are the tasks of this job where its kind has no fixed ones.
	Tasks []string
}

// New makes a queue. It starts nothing: until Start, jobs can be submitted,
// looked at and cancelled.
func New(opts Options) (*Queue, error) {
	if opts.Catalog == nil {
		return nil, errors.New("make the queue of jobs: no catalogue")
	}
	opts.setDefaults()
	return &Queue{
		opts: opts, jobs: opts.Catalog.Jobs, kick: make(chan struct{}, 1),
		live:    map[backstay.JobID]*run{},
		watches: map[backstay.JobID]map[chan struct{}]struct{}{},
		stopped: make(chan struct{}),
		entropy: ulid.Monotonic(ulid.DefaultEntropy(), 0),
	}, nil
}

// Submit makes the job durable and returns it, queued. It waits for nothing
// else.
func (q *Queue) Submit(ctx context.Context, r Request) (backstay.Job, error) {
	if _, ok := q.opts.Runners[r.Kind]; !ok {
		return backstay.Job{}, backstay.Errorf(backstay.CodeUsage, "there is no kind of job %q", r.Kind).
			Becausef("this server has nothing that could run it")
	}
	params, err := json.Marshal(r.Params)
	if err != nil {
		return backstay.Job{}, fmt.Errorf("encode the parameters of a %s job: %w", r.Kind, err)
	}
	if r.Alone {
		q.alone.Lock()
		defer q.alone.Unlock()
		if err := q.othersFor(ctx, r); err != nil {
			return backstay.Job{}, err
		}
	}
	now := q.opts.Now().UTC()
	id, err := q.newID(now)
	if err != nil {
		return backstay.Job{}, err
	}
	rec := catalog.JobRecord{
		Job: backstay.Job{
			ID: id, Kind: r.Kind, State: backstay.JobQueued, Target: r.Target, Point: r.Point, Region: q.opts.Region,
			User: r.User, Urgent: r.Urgent, Created: now, Tasks: []backstay.Task{}, Warnings: []string{}, Retries: r.Retries,
		},
		Params: params, VMs: r.VMs, Host: r.Host, Vault: r.Vault,
	}
	tasks := r.Tasks
	if len(tasks) == 0 {
		tasks = q.opts.Tasks[r.Kind]
	}
	for _, name := range tasks {
		rec.Tasks = append(rec.Tasks, backstay.Task{Name: name, State: backstay.TaskPending})
	}
	if err := q.jobs.InsertJob(ctx, rec); err != nil {
		return backstay.Job{}, fmt.Errorf("queue %s job for %s: %w", r.Kind, r.Target, err)
	}
	q.stateChanged(rec.Job)
	q.wake()
	return rec.Job, nil
}

// othersFor refuses a job that wants to be alone while another one of its kind
// has one of its VMs, or waits for it.
func (q *Queue) othersFor(ctx context.Context, r Request) error {
	active, err := q.jobs.ListJobs(ctx, 0, notEnded...)
	if err != nil {
		return err
	}
	for _, other := range slices.Backward(active) {
		shared := slices.ContainsFunc(other.VMs, func(vm backstay.VMID) bool { return slices.Contains(r.VMs, vm) })
		if other.Kind == r.Kind && !other.VMsFree && shared {
			return backstay.Errorf(backstay.CodeConflict, "a %s of %s is %s already", r.Kind, other.Target, other.Job.State).
				Becausef("job %s has not let go of the VM yet", other.ID).
				Do("wait for job %s, or cancel it: `backstay job cancel %s`", other.ID, other.ID)
		}
	}
	return nil
}

// newID makes an id that sorts behind those before it, even when the clock was
// set back: the queue is in the order of the ids.
func (q *Queue) newID(now time.Time) (backstay.JobID, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.newest = max(q.newest, ulid.Timestamp(now))
	id, err := ulid.New(q.newest, q.entropy)
	if err != nil {
		return "", fmt.Errorf("make a job's id: %w", err)
	}
	return backstay.JobID(id.String()), nil
}

// Get returns the job as it stands, or CodeUnknownJob.
func (q *Queue) Get(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	if r := q.running(id); r != nil {
		return r.Job(), nil
	}
	rec, err := q.record(ctx, id)
	return rec.Job, err
}

func (q *Queue) record(ctx context.Context, id backstay.JobID) (catalog.JobRecord, error) {
	rec, err := q.jobs.Job(ctx, id)
	return rec, unknown(id, err)
}

func unknown(id backstay.JobID, err error) error {
	if errors.Is(err, catalog.ErrNotFound) {
		return backstay.Errorf(backstay.CodeUnknownJob, "there is no job %q", id).Becausef("the catalogue of this region does not have it")
	}
	return err
}

// List returns jobs newest first: those of the given states, or all; at most
// limit of them, or without a limit if it is 0.
func (q *Queue) List(ctx context.Context, limit int, states ...backstay.JobState) ([]backstay.Job, error) {
	recs, err := q.jobs.ListJobs(ctx, limit, states...)
	if err != nil {
		return nil, err
	}
	jobs := make([]backstay.Job, len(recs))
	for i, rec := range recs {
		jobs[i] = rec.Job
		if r := q.running(rec.ID); r != nil && rec.Job.State == r.Job().State {
			jobs[i] = r.Job()
		}
	}
	return jobs, nil
}

// Cancel ends a queued job at once and tells a running one to undo and end,
// wherever it runs. It returns the job, which may still be cancelling; one that
// is cancelling already is returned as it is. An ended one is CodeJobEnded.
func (q *Queue) Cancel(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	var before backstay.JobState
	rec, err := q.jobs.UpdateJob(ctx, id, 0, func(rec *catalog.JobRecord) error {
		before = rec.Job.State
		switch {
		case before.Ended():
			return backstay.Errorf(backstay.CodeJobEnded, "job %s has already ended as %s", id, before).
				Becausef("only a job that is queued or running can be cancelled")
		case before == backstay.JobQueued:
			settle(rec, outcome{state: backstay.JobCancelled, err: cancelled()}, q.opts.Now().UTC())
		default:
			rec.Job.State = backstay.JobCancelling
		}
		return nil
	})
	if err != nil {
		return backstay.Job{}, unknown(id, err)
	}
	if rec.Job.State != before {
		q.stateChanged(rec.Job)
	}
	if r := q.running(id); r != nil {
		r.toldToCancel()
		rec.Job = r.Job()
	}
	q.wake()
	return rec.Job, nil
}

// onceOnly are the kinds that are not run again once they succeeded.
var onceOnly = []backstay.JobKind{backstay.JobRestore, backstay.JobDeploy, backstay.JobUndo}

// Retry queues a job that ended anew, as a new job of the given user with the
// same parameters. One that has not ended is CodeConflict. One that did what it was
// asked for and whose plan is of that time's state is CodeJobEnded: a restore that
// runs again would shut a VM down for nothing.
func (q *Queue) Retry(ctx context.Context, id backstay.JobID, user string) (backstay.Job, error) {
	rec, err := q.record(ctx, id)
	if err != nil {
		return backstay.Job{}, err
	}
	if !rec.Job.State.Ended() {
		return backstay.Job{}, backstay.Errorf(backstay.CodeConflict, "job %s is still %s", id, rec.Job.State).
			Becausef("a job is run again only once it has ended")
	}
	done := rec.Job.State == backstay.JobSucceeded || rec.Job.State == backstay.JobWarning
	if done && slices.Contains(onceOnly, rec.Kind) {
		return backstay.Job{}, backstay.Errorf(backstay.CodeJobEnded, "the %s %s is not run again: it ended as %s", rec.Kind, id, rec.Job.State).
			Becausef("it did what it was asked for, and its plan is of the state that was there then").Do("ask for a new one")
	}
	request := Request{
		Kind: rec.Kind, Target: rec.Target, Point: rec.Point, User: user, Params: rec.Params,
		VMs: rec.VMs, Host: rec.Host, Vault: rec.Vault, Retries: id,
	}
	for _, task := range rec.Tasks {
		request.Tasks = append(request.Tasks, task.Name)
	}
	if rec.Kind == backstay.JobBackup {
		request.Alone = true
		request.Point = "" // the old job made its point, the new one makes its own
	}
	return q.Submit(ctx, request)
}

// running returns the run of the job in this process, or nil.
func (q *Queue) running(id backstay.JobID) *run {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.live[id]
}

// wake makes the loop look at the queue now.
func (q *Queue) wake() {
	select {
	case q.kick <- struct{}{}:
	default: // a look is due already
	}
}

// stateChanged tells the log, the metrics and the followers.
func (q *Queue) stateChanged(job backstay.Job) {
	q.opts.Log.Info("job changed state", "job", job.ID, "kind", job.Kind, "target", job.Target, "state", job.State, "user", job.User)
	if q.opts.OnState != nil {
		q.opts.OnState(job)
	}
	q.changed(job.ID)
}
