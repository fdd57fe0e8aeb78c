package job

import (
	"context"
	"reflect"
	"time"

	backstay "github.com/backstay/backstay"
)

// Follow sends the job as it stands and then after each change, and closes the
// channel once it has sent the ended job, or ctx ends, or the queue stops. A
// slow reader misses steps in between, never the last one. The job may run on
// another server: then changes are seen within Options.Poll.
func (q *Queue) Follow(ctx context.Context, id backstay.JobID) (<-chan backstay.Job, error) {
	changes := make(chan struct{}, 1)
	q.mu.Lock()
	stopped := q.stopped
	if q.watches[id] == nil {
		q.watches[id] = map[chan struct{}]struct{}{}
	}
	q.watches[id][changes] = struct{}{}
	q.mu.Unlock()

	job, err := q.Get(ctx, id)
	if err != nil {
		q.unwatch(id, changes)
		return nil, err
	}
	out := make(chan backstay.Job)
	go func() {
		defer close(out)
		defer q.unwatch(id, changes)
		q.follow(ctx, job, follower{out, changes, stopped})
	}()
	return out, nil
}

// follower is one reader of one job. Its goroutine ends with the reader's ctx.
type follower struct {
	out     chan<- backstay.Job
	changes <-chan struct{}
	stopped <-chan struct{}
}

func (q *Queue) follow(ctx context.Context, job backstay.Job, f follower) {
	poll := time.NewTicker(q.opts.Poll)
	defer poll.Stop()
	var sent backstay.Job
	for {
		if !reflect.DeepEqual(job, sent) {
			select {
			case f.out <- job:
				sent = job
			case <-ctx.Done():
				return
			}
		}
		if job.State.Ended() {
			return
		}
		select {
		case <-f.changes:
		case <-poll.C:
		case <-f.stopped:
			return
		case <-ctx.Done():
			return
		}
		// A failed read is tried again with the next change or poll.
		if next, err := q.Get(ctx, job.ID); err == nil {
			job = next
		}
	}
}

func (q *Queue) unwatch(id backstay.JobID, changes chan struct{}) {
	q.mu.Lock()
	defer q.mu.Unlock()
	delete(q.watches[id], changes)
	if len(q.watches[id]) == 0 {
		delete(q.watches, id)
	}
}

// changed tells the followers of the job to look at it.
func (q *Queue) changed(id backstay.JobID) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for changes := range q.watches[id] {
		select {
		case changes <- struct{}{}:
		default: // it will look anyway
		}
	}
}
