package replicate

import (
	"context"
	"errors"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
)

// The states of a replication.
const (
	Idle    = "idle"
	Copying = "copying"
	Waiting = "waiting"
	Paused  = "paused"
	Failed  = "failed"
)

// rateOver is over how many seconds a rate is measured.
const rateOver = 60

// board has what is known of each replication while the server runs.
type board struct {
	mu     sync.Mutex
	meters map[backstay.ReplicateParams]*meter // guarded by mu
}

// of returns the meter of a replication, and makes it if there is none.
func (b *board) of(params backstay.ReplicateParams, now func() time.Time) *meter {
	b.mu.Lock()
	defer b.mu.Unlock()
	if b.meters == nil {
		b.meters = map[backstay.ReplicateParams]*meter{}
	}
	m, ok := b.meters[params]
	if !ok {
		m = &meter{now: now, state: Idle}
		b.meters[params] = m
	}
	return m
}

// meter measures one replication.
type meter struct {
	now func() time.Time

	mu      sync.Mutex
	job     backstay.JobID // guarded by mu
	state   string         // guarded by mu
	reason  string         // guarded by mu
	objects int64          // guarded by mu: backlog
	bytes   int64          // guarded by mu: backlog
	done    int64          // guarded by mu: bytes sent by the present job
	total   int64          // guarded by mu: bytes sent since the server started
	last    time.Time      // guarded by mu: when a point became available
	// seconds has how many bytes were sent in each of the last seconds, by second
	// modulo its length; newest is the second of the newest. Guarded by mu.
	seconds [rateOver]int64
	newest  int64
	began   int64 // the second in which the job began; guarded by mu
}

func (m *meter) begin(job backstay.JobID) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.job, m.state, m.reason, m.done = job, Copying, "", 0
	m.began = m.now().Unix()
}

// sent counts bytes that went out.
func (m *meter) sent(n int) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	m.seconds[m.newest%rateOver] += int64(n)
	m.done += int64(n)
	m.total += int64(n)
}

// advance clears the seconds that passed; a clock that was set back adds to the
// newest.
func (m *meter) advance() {
	now := m.now().Unix()
	if now-m.newest >= rateOver {
		m.seconds, m.newest = [rateOver]int64{}, now
	}
	for m.newest < now {
		m.newest++
		m.seconds[m.newest%rateOver] = 0
	}
}

// backlog notes what is missing, and returns how many bytes the job sent.
func (m *meter) backlog(objects, bytes int64) (done int64) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.objects, m.bytes = objects, bytes
	return m.done
}

// waits notes why nothing goes on; empty if something does.
func (m *meter) waits(reason string) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.state, m.reason = Copying, reason; reason != "" {
		m.state = Waiting
	}
}

func (m *meter) completed(at time.Time) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.last = at
}

// end notes how a job ended; shut says why it pushed no more, nil if nothing is
// left to push.
func (m *meter) end(shut, err error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.job, m.state, m.reason = "", Idle, ""
	switch {
	case backstay.IsCode(err, backstay.CodeRegionAway):
		m.state, m.reason = Waiting, err.Error()
	case err != nil:
		m.state, m.reason = Failed, err.Error()
	case errors.Is(shut, ErrPaused):
		m.state, m.reason = Paused, shut.Error()
	case shut != nil:
		m.state, m.reason = Waiting, shut.Error()
	}
}

// fill writes what is measured into a replication.
func (m *meter) fill(r *backstay.Replication) {
	m.mu.Lock()
	defer m.mu.Unlock()
	m.advance()
	r.State, r.Reason, r.Job = m.state, m.reason, m.job
	r.BacklogObjects, r.BacklogBytes = m.objects, m.bytes
	var sum int64
	for _, n := range m.seconds {
		sum += n
	}
	if over := min(rateOver, m.newest-m.began+1); m.job != "" && over > 0 {
		r.Rate = sum / over
	}
	if r.Rate > 0 && r.BacklogBytes > 0 {
		eta := r.BacklogBytes / r.Rate
		r.EtaSeconds = &eta
	}
	if !m.last.IsZero() && (r.Last == nil || m.last.After(*r.Last)) {
		last := m.last
		r.Last = &last
	}
}

// Sent is how many bytes were sent since the server started.
func (r *Runner) Sent(params backstay.ReplicateParams) int64 {
	m := r.progress.of(params, r.Now)
	m.mu.Lock()
	defer m.mu.Unlock()
	return m.total
}

// Says notes why a replication that has no job waits, or failed to begin; with an
// empty state that nothing is in its way.
func (r *Runner) Says(params backstay.ReplicateParams, state, reason string) {
	m := r.progress.of(params, r.Now)
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.job == "" {
		if m.state, m.reason = state, reason; state == "" {
			m.state = Idle
		}
	}
}

// Status says how far a vault is in a region.
func (r *Runner) Status(ctx context.Context, params backstay.ReplicateParams) (backstay.Replication, error) {
	points, err := r.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return backstay.Replication{}, err
	}
	records, err := r.Catalog.Replicas.ListReplicas(ctx, params.Vault)
	if err != nil {
		return backstay.Replication{}, err
	}
	out := Sum(params.Vault, params.Region, points, records, r.Now())
	r.progress.of(params, r.Now).fill(&out)
	return out, nil
}
