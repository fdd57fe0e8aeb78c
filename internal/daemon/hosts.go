package daemon

import (
	"context"
	"fmt"
	"log/slog"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/backup"
	"github.com/backstay/backstay/internal/mover"
)

// hosts keeps up with the region's hosts: what they have goes to the catalogue,
// what a crash left on them is swept (I9).
type hosts struct {
	catalog *catalog.Catalog
	log     *slog.Logger
	now     func() time.Time
	// onReached, if set, is called when a host was reached and swept.
	onReached func(ctx context.Context, name backstay.HostName)
	// movers and states do not change once run was called.
	movers map[backstay.HostName]mover.Mover
	states map[backstay.HostName]*hostState
}

// hostState is one host's. The gate is held for reading while a job runs on the
// host and for writing while it is swept, so that a sweep never sees a job that
// it was not told of.
type hostState struct {
	gate sync.RWMutex
	mu   sync.Mutex
	// ready is closed once the host was reached and swept for the first time.
	ready chan struct{}
	swept bool // guarded by mu
}

func newHosts(c *catalog.Catalog, log *slog.Logger, now func() time.Time) *hosts {
	return &hosts{catalog: c, log: log, now: now, movers: map[backstay.HostName]mover.Mover{}, states: map[backstay.HostName]*hostState{}}
}

// add makes a host known; before run.
func (h *hosts) add(name backstay.HostName, m mover.Mover) {
	h.movers[name] = m
	h.states[name] = &hostState{ready: make(chan struct{})}
}

// mover returns the mover of a host that was reached and swept.
func (h *hosts) mover(name backstay.HostName) (mover.Mover, error) {
	m, ok := h.movers[name]
	if !ok {
		return nil, backstay.Errorf(backstay.CodeUnknownHost, "there is no host %s", name).Becausef("the server's configuration does not name it")
	}
	select {
	case <-h.states[name].ready:
		return m, nil
	default:
		return nil, backstay.Errorf(backstay.CodeHostAway, "host %s cannot be reached", name).Becausef("it has not answered since the server started")
	}
}

// enter marks that a job runs on the host until leave is called. It waits for a
// sweep that is under way.
func (h *hosts) enter(name backstay.HostName) (leave func()) {
	state, ok := h.states[name]
	if !ok {
		return func() {}
	}
	state.gate.RLock()
	return state.gate.RUnlock
}

// retryAfter is the pause before a lost host is tried again.
const retryAfter = 2 * time.Second

// run keeps up with one host until ctx ends.
func (h *hosts) run(ctx context.Context, name backstay.HostName) {
	for ctx.Err() == nil {
		err := h.follow(ctx, name)
		if ctx.Err() != nil {
			return
		}
		h.lost(ctx, name, err)
		select {
		case <-ctx.Done():
		case <-time.After(retryAfter):
		}
	}
}

// follow sweeps the host, looks at everything, then at what the host reports. It
// returns when the host is lost. A host that counts as connected was swept.
func (h *hosts) follow(ctx context.Context, name backstay.HostName) error {
	settled, err := h.settle(ctx, name)
	if err != nil {
		return err
	}
	if err := h.refresh(ctx, name); err != nil {
		return err
	}
	h.reached(name)
	if h.onReached != nil {
		h.onReached(ctx, name)
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	// Reports come in bursts while a VM starts; one look covers them all. The
	// slow tick catches what no event tells, such as room in a pool.
	wake := make(chan struct{}, 1)
	watched := make(chan error, 1)
	go func() {
		watched <- h.movers[name].Watch(ctx, func(backstay.VMID) {
			select {
			case wake <- struct{}{}:
			default:
			}
		})
	}()
	tick := time.NewTicker(30 * time.Second)
	defer tick.Stop()
	ended := h.now() // the sweep ended undos whose time was over
	for {
		select {
		case err := <-watched:
			if err == nil {
				err = backstay.Errorf(backstay.CodeHostAway, "host %s ended the watch", name)
			}
			return err
		case <-wake:
		case <-tick.C:
			if !settled {
				if settled, err = h.settle(ctx, name); err != nil {
					cancel()
					<-watched
					return err
				}
			}
		}
		if now := h.now(); now.Sub(ended) >= endUndosEvery {
			h.endUndos(ctx, name)
			ended = now
		}
		if err := h.refresh(ctx, name); err != nil {
			cancel()
			<-watched
			return err
		}
	}
}

// endUndosEvery is how late the old disks of a restore may go.
const endUndosEvery = 10 * time.Minute

// endUndos removes what is kept for undos whose time is over. What cannot go now
// goes the next time.
func (h *hosts) endUndos(ctx context.Context, name backstay.HostName) {
	removed, err := h.movers[name].EndUndos(ctx)
	if len(removed) > 0 {
		h.log.Info("the time of an undo is over", "host", name, "removed", removed)
	}
	if err != nil && ctx.Err() == nil {
		h.log.Warn("what was kept for an undo cannot be removed yet", "host", name, "error", err)
	}
}

// refresh brings the catalogue up to date with the host.
func (h *hosts) refresh(ctx context.Context, name backstay.HostName) error {
	m := h.movers[name]
	facts, err := m.Facts(ctx)
	if err != nil {
		return err
	}
	vms, err := m.VMs(ctx)
	if err != nil {
		return err
	}
	for i := range vms {
		vms[i].Host = name
	}
	if err := h.catalog.VMs.ReplaceVMs(ctx, name, vms); err != nil {
		return fmt.Errorf("record VMs of host %s: %w", name, err)
	}
	if err := h.followItems(ctx); err != nil {
		return err
	}
	return h.catalog.Hosts.PutHost(ctx, backstay.Host{Name: name, State: "connected", LastSeen: h.now().UTC(), Facts: facts})
}

func (h *hosts) lost(ctx context.Context, name backstay.HostName, cause error) {
	h.log.Warn("host lost", "host", name, "error", cause)
	host, err := h.catalog.Hosts.Host(ctx, name)
	if err != nil {
		host = backstay.Host{Name: name}
	}
	host.State, host.Reason = "unreachable", backstay.AsError(cause).Error()
	if err := h.catalog.Hosts.PutHost(ctx, host); err != nil {
		h.log.Error("record host", "host", name, "error", err)
	}
}

// settle sweeps the host and enters points that only the host knows. While jobs
// of this server run there it leaves the host alone: they mend what they broke
// themselves. It tells whether the host is swept; if not, it is to be called
// again. What cannot be mended on a host, such as one VM's layers, does not keep
// its other VMs from being backed up: only a host that is away is an error.
func (h *hosts) settle(ctx context.Context, name backstay.HostName) (settled bool, err error) {
	state := h.states[name]
	if !state.gate.TryLock() {
		return false, nil
	}
	defer state.gate.Unlock()
	err = h.sweep(ctx, name)
	if err == nil || backstay.IsCode(err, backstay.CodeHostAway) || ctx.Err() != nil {
		return err == nil, err
	}
	h.log.Error("the host could not be swept whole", "host", name, "error", err)
	return false, nil
}

// reached lets jobs go on that wait for the host.
func (h *hosts) reached(name backstay.HostName) {
	state := h.states[name]
	state.mu.Lock()
	defer state.mu.Unlock()
	if !state.swept {
		state.swept = true
		close(state.ready)
	}
}

func (h *hosts) sweep(ctx context.Context, name backstay.HostName) error {
	jobs, err := h.catalog.Jobs.ListJobs(ctx, 0, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	var live []backstay.JobID
	for _, j := range jobs {
		live = append(live, j.ID)
	}
	report, err := h.movers[name].Sweep(ctx, live)
	if err != nil {
		return err
	}
	if len(report.Thawed)+len(report.Removed)+len(report.Finished) > 0 {
		h.log.Info("swept host", "host", name, "thawed", report.Thawed, "removed", report.Removed, "finished", report.Finished)
	}
	return h.adopt(ctx, name, live)
}

// adopt makes the catalogue agree with what is recorded beside the disks.
func (h *hosts) adopt(ctx context.Context, name backstay.HostName, live []backstay.JobID) error {
	if len(live) > 0 {
		return nil // each of their backups does so for its VM
	}
	done, err := backup.Reconcile(ctx, h.catalog, h.movers[name], backup.Scope{Host: name}, h.now().UTC())
	for _, id := range done.Entered {
		h.log.Info("entered point found beside the disk", "host", name, "point", id)
	}
	for id, why := range done.Lost {
		h.log.Warn("point is not in the snapshot tier any more", "host", name, "point", id, "reason", why)
	}
	return err
}

// waitReady waits until every host was reached and swept, or for the given time.
func (h *hosts) waitReady(ctx context.Context, most time.Duration) {
	deadline := time.After(most)
	for _, state := range h.states {
		select {
		case <-state.ready:
		case <-deadline:
			return
		case <-ctx.Done():
			return
		}
	}
}
