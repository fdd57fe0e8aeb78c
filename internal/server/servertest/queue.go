package servertest

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/server"
)

// Play is how the queue plays its jobs.
type Play int

// The ways to play a job.
const (
	Succeed Play = iota // to the end, with some progress
	Warn                // to the end, with a warning
	Fail                // half-way, then it fails
	Hang                // runs until it is cancelled
	Queued              // never begins
)

// Queue plays jobs instead of running them.
type Queue struct {
	mu       sync.Mutex
	play     Play                                 // guarded by mu
	next     int                                  // guarded by mu
	jobs     map[backstay.JobID]*backstay.Job     // guarded by mu
	requests map[backstay.JobID]server.JobRequest // guarded by mu
	changed  chan struct{}                        // guarded by mu; closed and replaced at each change
	closed   chan struct{}
	players  sync.WaitGroup
}

func newQueue() *Queue {
	return &Queue{
		jobs: map[backstay.JobID]*backstay.Job{}, requests: map[backstay.JobID]server.JobRequest{},
		changed: make(chan struct{}), closed: make(chan struct{}),
	}
}

func (q *Queue) close() {
	close(q.closed)
	q.players.Wait()
}

// Play says how the jobs that are submitted from now on are played.
func (q *Queue) Play(p Play) {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.play = p
}

// Request returns what a job was submitted with.
func (q *Queue) Request(id backstay.JobID) (server.JobRequest, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	r, ok := q.requests[id]
	return r, ok
}

// Count returns the number of jobs.
func (q *Queue) Count() int {
	q.mu.Lock()
	defer q.mu.Unlock()
	return len(q.jobs)
}

// Submit implements server.JobQueue.
func (q *Queue) Submit(_ context.Context, r server.JobRequest) (backstay.Job, error) {
	if _, err := json.Marshal(r.Params); err != nil {
		return backstay.Job{}, err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.next++
	id := backstay.JobID(fmt.Sprintf("01J%023d", q.next))
	job := &backstay.Job{ID: id, Kind: r.Kind, State: backstay.JobQueued, Target: r.Target, Point: r.Point, Region: "home", User: r.User, Created: Now, Retries: r.Retries}
	q.jobs[id], q.requests[id] = job, r
	play := q.play
	q.players.Go(func() { q.perform(id, play) })
	return *job, nil
}

// change changes a job and tells its followers. It refuses once a job ended or
// the queue is closed.
func (q *Queue) change(id backstay.JobID, fn func(*backstay.Job)) bool {
	select {
	case <-q.closed:
		return false
	case <-time.After(15 * time.Millisecond):
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	job := q.jobs[id]
	if job.State.Ended() || job.State == backstay.JobCancelling {
		return false
	}
	fn(job)
	close(q.changed)
	q.changed = make(chan struct{})
	return true
}

func (q *Queue) perform(id backstay.JobID, play Play) {
	if play == Queued {
		q.change(id, func(j *backstay.Job) { j.Waiting = "host local is busy with 2 jobs" })
		return
	}
	started := Now.Add(time.Second)
	ok := q.change(id, func(j *backstay.Job) {
		j.State, j.Started = backstay.JobRunning, &started
		j.BytesTotal = 100 << 20
		j.Tasks = []backstay.Task{{Name: "prepare", State: backstay.TaskSucceeded, Percent: 100}, {Name: "transfer", State: backstay.TaskRunning}}
	})
	for percent := int64(25); ok && percent <= 75; percent += 25 {
		ok = q.change(id, func(j *backstay.Job) {
			eta := 100 - percent
			j.Percent, j.BytesDone, j.BytesPerSecond, j.EtaSeconds = float64(percent), percent<<20, 25<<20, &eta
			j.Tasks = slices.Clone(j.Tasks)
			j.Tasks[1].Percent = float64(percent)
		})
	}
	if ok && play != Hang {
		q.change(id, func(j *backstay.Job) { end(j, play) })
	}
}

func end(j *backstay.Job, play Play) {
	ended := Now.Add(5 * time.Second)
	j.Ended, j.EtaSeconds = &ended, nil
	j.State = backstay.JobSucceeded
	switch play {
	case Fail:
		j.State = backstay.JobFailed
		j.Error = backstay.Errorf(backstay.CodeDamaged, "a chunk is not what was written").Becausef("pack 7f3a fails its check in all copies")
		return
	case Warn:
		j.State = backstay.JobWarning
		j.Warnings = []string{"the guest agent did not answer; the point is crash-consistent"}
	}
	j.Percent, j.BytesDone = 100, j.BytesTotal
	j.Stats = backstay.JobStats{FreezeMs: 41, BytesRead: 100 << 20, BytesDirty: 64 << 20, BytesNew: 21 << 20, ChunksNew: 84, Requests: 12}
	switch j.Kind {
	case backstay.JobBackup:
		j.Result.Point = PointBoth
	case backstay.JobRestore, backstay.JobDeploy:
		j.Result.VM = &backstay.VMRef{Name: j.Target[len("local/"):], UUID: "99999999-9999-4999-8999-999999999999", Host: "local"}
		j.Result.UpSeconds = 12.5
		until := Now.Add(14 * 24 * time.Hour)
		j.Result.UndoUntil = &until
	case backstay.JobRepair:
		j.Result.Repaired = 2
	case backstay.JobRebuild:
		j.Result.Changes = []string{"added point " + string(PointBoth) + " of local/web01, taken at 2026-11-22T10:00:00Z"}
	case backstay.JobVerify:
		j.Result.SHA256 = map[backstay.DiskTarget]string{"vda": "9f86d081884c7d659a2feaa0c55ad015a3bf4f1b2b0b822cd15d6c15b0f00a08"}
	}
}

func unknown(id backstay.JobID) error {
	return backstay.Errorf(backstay.CodeUnknownJob, "there is no job %q", id).Becausef("the queue does not have it")
}

// Get implements server.JobQueue.
func (q *Queue) Get(_ context.Context, id backstay.JobID) (backstay.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if job, ok := q.jobs[id]; ok {
		return *job, nil
	}
	return backstay.Job{}, unknown(id)
}

// List implements server.JobQueue.
func (q *Queue) List(_ context.Context, limit int, states ...backstay.JobState) ([]backstay.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	var jobs []backstay.Job
	for n := q.next; n > 0 && (limit == 0 || len(jobs) < limit); n-- {
		job := q.jobs[backstay.JobID(fmt.Sprintf("01J%023d", n))]
		if len(states) == 0 || slices.Contains(states, job.State) {
			jobs = append(jobs, *job)
		}
	}
	return jobs, nil
}

// Cancel implements server.JobQueue.
func (q *Queue) Cancel(_ context.Context, id backstay.JobID) (backstay.Job, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	job, ok := q.jobs[id]
	if !ok {
		return backstay.Job{}, unknown(id)
	}
	if job.State.Ended() {
		return *job, backstay.Errorf(backstay.CodeJobEnded, "the job %s has ended", id).Becausef("it is %s", job.State)
	}
	ended := Now.Add(3 * time.Second)
	job.State, job.Ended = backstay.JobCancelled, &ended
	job.Error = backstay.Errorf(backstay.CodeCancelled, "the job was cancelled")
	close(q.changed)
	q.changed = make(chan struct{})
	return *job, nil
}

// Retry implements server.JobQueue.
func (q *Queue) Retry(ctx context.Context, id backstay.JobID, user string) (backstay.Job, error) {
	r, ok := q.Request(id)
	if !ok {
		return backstay.Job{}, unknown(id)
	}
	r.User, r.Retries = user, id
	return q.Submit(ctx, r)
}

// Follow implements server.JobQueue.
func (q *Queue) Follow(ctx context.Context, id backstay.JobID) (<-chan backstay.Job, error) {
	if _, err := q.Get(ctx, id); err != nil {
		return nil, err
	}
	out := make(chan backstay.Job)
	q.players.Go(func() {
		defer close(out)
		for {
			q.mu.Lock()
			job, changed := *q.jobs[id], q.changed
			q.mu.Unlock()
			select {
			case out <- job:
			case <-ctx.Done():
				return
			case <-q.closed:
				return
			}
			if job.State.Ended() {
				return
			}
			select {
			case <-changed:
			case <-ctx.Done():
				return
			case <-q.closed:
				return
			}
		}
	})
	return out, nil
}
