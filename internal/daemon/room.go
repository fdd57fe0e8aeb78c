package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/expire"
	"github.com/backstay/backstay/internal/job"
)

// How often the room beside the disks is looked at: seldom while nothing grows,
// and the more often the sooner the floor would be reached.
const (
	calmLook = 2 * time.Second
	busyLook = 250 * time.Millisecond
	idleLook = 15 * time.Second // no VM has layers
	// headStart is the growth that an expiry must be ahead of: until its job runs
	// and its first merge is done.
	headStart = 4 * time.Second
	// stuckAfter is how long an urgent expiry waits for a backup that has the VM
	// before the backup is cancelled (I12).
	stuckAfter = 10 * time.Second
	// alarmAgain is the time between two alarms that say the same.
	alarmAgain = 10 * time.Minute
)

// rooms watches over the room that layers take on the hosts, so that no guest
// meets a full file system while there are layers to give back (I12).
type rooms struct {
	*region

	mu    sync.Mutex
	seen  map[backstay.HostName][]backstay.Room // guarded by mu: as last seen
	alarm map[string]time.Time                  // guarded by mu: when what was last told
	tries map[string]try                        // guarded by mu: the last urgent expiry of each VM
}

// try is an urgent expiry.
type try struct {
	at  time.Time
	job backstay.JobID
}

// pass is how long a VM is passed over whose expiry gave nothing back.
const pass = time.Minute

func newRooms(r *region) *rooms {
	return &rooms{region: r, seen: map[backstay.HostName][]backstay.Room{}, alarm: map[string]time.Time{}, tries: map[string]try{}}
}

// Rooms implements server.Layers.
func (w *rooms) Rooms(host backstay.HostName) []backstay.Room {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.Clone(w.seen[host])
}

// Pin implements server.Layers.
func (w *rooms) Pin(ctx context.Context, host backstay.HostName, p backstay.PointID, pinned bool) error {
	m, err := w.hosts.mover(host)
	if err != nil {
		return err
	}
	return m.Pin(ctx, p, pinned)
}

// floor is how much must stay free on a file system of a host: what the
// configuration says, and on top of it what the largest merge may take before it
// gives room back; else the room could be too little to make room.
func (w *rooms) floor(host backstay.HostName, room backstay.Room) int64 {
	for _, h := range w.config.Hosts {
		if h.Name == host {
			if floor, err := h.Layers.Floor.Of(room.Total); err == nil {
				return floor + room.Merge
			}
		}
	}
	return backstay.DefaultFloor(room.Total) + room.Merge
}

// watch looks after one host until ctx ends.
func (w *rooms) watch(ctx context.Context, host backstay.HostName) {
	for {
		next, err := w.look(ctx, host)
		if err != nil && ctx.Err() == nil {
			if !backstay.IsCode(err, backstay.CodeHostAway) {
				w.tell(host, "look", "the room beside the disks cannot be watched", "error", err)
			}
			next = calmLook
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(next):
		}
	}
}

// look measures the host's file systems once and acts; it returns when to look
// again.
func (w *rooms) look(ctx context.Context, host backstay.HostName) (next time.Duration, err error) {
	m, err := w.hosts.mover(host)
	if err != nil {
		return 0, err
	}
	// A mover that hangs is one that is away: the others have watchers of their own.
	asked, cancel := context.WithTimeout(ctx, time.Minute)
	defer cancel()
	now, err := m.Room(asked)
	if err != nil {
		return 0, err
	}
	before := w.Rooms(host)
	next = idleLook
	var errs []error
	for i := range now {
		room := &now[i]
		room.Host, room.Floor = host, w.floor(host, *room)
		room.PerSecond = fills(before, *room)
		if err := w.act(ctx, room); err != nil {
			errs = append(errs, err)
		}
		next = min(next, lookAgain(*room))
	}
	errs = append(errs, w.resumeReleased(ctx, host, now))
	w.mu.Lock()
	w.seen[host] = now
	w.mu.Unlock()
	return next, errors.Join(errs...)
}

// fills estimates how fast a file system fills, in bytes a second: at least half
// of what it was, so that one quiet moment does not hide a stream.
func fills(before []backstay.Room, now backstay.Room) int64 {
	for _, then := range before {
		if then.Device != now.Device || !now.Seen.After(then.Seen) {
			continue
		}
		rate := float64(then.Free-now.Free) / now.Seen.Sub(then.Seen).Seconds()
		return max(0, int64(rate), then.PerSecond/2)
	}
	return 0
}

// lookAgain is a quarter of the time in which the floor would be reached.
func lookAgain(room backstay.Room) time.Duration {
	switch {
	case len(room.VMs) == 0:
		return idleLook
	case room.Low():
		return time.Second
	case room.PerSecond == 0:
		return calmLook
	}
	left := float64(room.Free-room.Floor) / float64(room.PerSecond)
	if left > 4*calmLook.Seconds() {
		return calmLook
	}
	return max(busyLook, time.Duration(left/4*float64(time.Second)))
}

// act keeps the floor of one file system, and lets VMs go on that found it full.
func (w *rooms) act(ctx context.Context, room *backstay.Room) error {
	err := w.resume(ctx, room)
	ahead := *room
	ahead.Free -= growth(room)
	if !ahead.Low() {
		return err
	}
	if busy, busyErr := w.underWay(ctx, room); busy || busyErr != nil {
		return errors.Join(err, busyErr)
	}
	plan, planErr := w.engines.expire.PlanRoom(ctx, *room)
	if planErr != nil {
		return errors.Join(err, planErr)
	}
	passed := w.passedOver(ctx, room)
	first := slices.IndexFunc(plan, func(c expire.Candidate) bool { return c.Free() && !slices.Contains(passed, c.VM.UUID) })
	if first >= 0 {
		return errors.Join(err, w.expire(ctx, room, plan[first].VM, passed))
	}
	return errors.Join(err, w.nothingGoes(ctx, room, plan))
}

// growth is what will be written until an expiry has given room back.
func growth(room *backstay.Room) int64 { return room.PerSecond * int64(headStart/time.Second) }

// passedOver returns the VMs whose last expiry found that their points cannot go.
func (w *rooms) passedOver(ctx context.Context, room *backstay.Room) []backstay.VMID {
	var passed []backstay.VMID
	for _, vm := range room.VMs {
		w.mu.Lock()
		last, ok := w.tries[room.Device+" "+string(vm.VM.UUID)]
		w.mu.Unlock()
		if !ok || time.Since(last.at) > pass {
			continue
		}
		if j, err := w.queue.Get(ctx, last.job); err == nil && j.State == backstay.JobFailed {
			passed = append(passed, vm.VM.UUID)
		}
	}
	return passed
}

// underWay tells whether an urgent expiry of the file system is queued or runs.
// One that waits too long for a backup has the backup cancelled.
func (w *rooms) underWay(ctx context.Context, room *backstay.Room) (bool, error) {
	active, err := w.catalog.Jobs.ListJobs(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return false, fmt.Errorf("list jobs: %w", err)
	}
	for _, j := range active {
		if j.Kind != backstay.JobExpire || !j.Urgent || j.Host != room.Host || !strings.Contains(string(j.Params), `"`+room.Device+`"`) {
			continue
		}
		if j.Job.State != backstay.JobQueued || time.Since(j.Created) < stuckAfter {
			return true, nil
		}
		for _, other := range active {
			shared := slices.ContainsFunc(other.VMs, func(vm backstay.VMID) bool { return slices.Contains(j.VMs, vm) })
			if other.Kind == backstay.JobBackup && other.Job.State == backstay.JobRunning && !other.VMsFree && shared {
				return true, w.cancel(ctx, room, other.ID)
			}
		}
		return true, nil
	}
	return false, nil
}

// expire queues an urgent expiry of the VM whose point should go first.
func (w *rooms) expire(ctx context.Context, room *backstay.Room, vm backstay.VMRef, passed []backstay.VMID) error {
	vm.Host = room.Host
	made, err := w.queue.Submit(ctx, job.Request{
		Kind: backstay.JobExpire, Target: target(vm), User: scheduler, Urgent: true,
		Params: backstay.ExpireParams{VM: vm.UUID, Device: room.Device, Host: room.Host, Passed: passed, Ahead: growth(room)},
		VMs:    []backstay.VMID{vm.UUID}, Host: room.Host,
	})
	if err != nil {
		return err
	}
	w.mu.Lock()
	w.tries[room.Device+" "+string(vm.UUID)] = try{time.Now(), made.ID}
	w.mu.Unlock()
	w.tell(room.Host, "low "+room.Device, "there is too little room beside the disks: points leave the snapshot tier before their time", "job", made.ID,
		"folder", room.Folder, "freeMiB", room.Free>>20, "floorMiB", room.Floor>>20)
	return nil
}

// nothingGoes ends the transfers that hold points, and where none does raises an
// alarm that says how much room is left and for how long.
func (w *rooms) nothingGoes(ctx context.Context, room *backstay.Room, plan []expire.Candidate) error {
	urgent := room.Free-growth(room) < room.Merge+(room.Floor-room.Merge)/2
	for _, c := range plan {
		if len(c.Held) > 0 || len(c.Transfers) == 0 {
			continue
		}
		if !urgent {
			return nil // half of the floor is left, and the transfer ends by itself
		}
		var errs []error
		for _, id := range c.Transfers {
			errs = append(errs, w.cancel(ctx, room, id))
		}
		return errors.Join(errs...)
	}
	room.Warning = fmt.Sprintf("%s has %d MiB free of the %d MiB that must stay free, ", room.Folder, room.Free>>20, room.Floor>>20)
	if len(plan) == 0 {
		room.Warning += "and backstay holds no point there"
	} else {
		room.Warning += "and no point can go: " + expire.Holders(plan)
	}
	if slices.ContainsFunc(plan, expire.Candidate.Free) {
		room.Warning += "; the others could not be dropped just now, see the warnings of the last expire jobs"
	}
	if room.PerSecond > 0 {
		until := room.Seen.Add(time.Duration(float64(room.Free) / float64(room.PerSecond) * float64(time.Second)))
		room.Warning += fmt.Sprintf("; at this rate it is full at %s", until.Format(time.RFC3339))
	}
	w.tell(room.Host, "stuck "+room.Device, "the floor cannot be held", "warning", room.Warning)
	return nil
}

// cancel ends a transfer that holds layers which a guest needs the room of: its
// point stays in the snapshot tier until it goes too, and a later run carries
// what is new (I12).
func (w *rooms) cancel(ctx context.Context, room *backstay.Room, id backstay.JobID) error {
	_, err := w.queue.Cancel(ctx, id)
	if backstay.IsCode(err, backstay.CodeJobEnded) || backstay.IsCode(err, backstay.CodeUnknownJob) {
		return nil
	}
	if err == nil {
		w.tell(room.Host, "cancel "+string(id), "a job is cancelled since it holds layers that must go: there is too little room beside the disks", "job", id)
	}
	return err
}

// resume lets VMs go on that QEMU paused when they found the file system full,
// once a quarter of its floor is free again. One that a full file system cannot
// have stopped is left alone: its disk has another fault.
func (w *rooms) resume(ctx context.Context, room *backstay.Room) error {
	enough := max(room.Floor/4, 16<<20)
	for _, vm := range room.VMs {
		if !vm.Stalled {
			continue
		}
		key := stalledKey(vm.VM.UUID)
		if room.Free < enough {
			w.remember(room.Host, key)
			w.tell(room.Host, "told "+key, "a VM stands still: the file system of its layers is full", "vm", vm.VM.Name, "folder", room.Folder, "freeMiB", room.Free>>20)
			continue
		}
		if err := w.goOn(ctx, room.Host, key, vm.VM.Name); err != nil {
			return err
		}
	}
	return nil
}

// resumeReleased lets VMs go on that stood still, and whose layers are all merged
// since: nothing tells of their file systems any more, and none of their disks
// grows by our doing.
func (w *rooms) resumeReleased(ctx context.Context, host backstay.HostName, now []backstay.Room) error {
	here := map[string]bool{}
	for _, room := range now {
		for _, vm := range room.VMs {
			here[stalledKey(vm.VM.UUID)] = true
		}
	}
	w.mu.Lock()
	var gone []string
	for key := range w.alarm {
		what, ours := strings.CutPrefix(key, string(host)+" ")
		if ours && strings.HasPrefix(what, stalledPrefix) && !here[what] {
			gone = append(gone, what)
		}
	}
	w.mu.Unlock()
	var errs []error
	for _, key := range gone {
		errs = append(errs, w.goOn(ctx, host, key, strings.TrimPrefix(key, stalledPrefix)))
	}
	return errors.Join(errs...)
}

// stalledPrefix marks the VMs that were seen to stand still on a full file system.
const stalledPrefix = "stalled "

func stalledKey(vm backstay.VMID) string { return stalledPrefix + string(vm) }

// goOn lets a VM go on that was remembered under the key.
func (w *rooms) goOn(ctx context.Context, host backstay.HostName, key, name string) error {
	if !w.forget(host, key) {
		return nil
	}
	m, err := w.hosts.mover(host)
	if err != nil {
		return err
	}
	was, err := m.Unstall(ctx, backstay.VMID(strings.TrimPrefix(key, stalledPrefix)))
	if err != nil {
		w.remember(host, key)
		return err
	}
	if was {
		w.log.Warn("a VM that stood still for want of room goes on", "host", host, "vm", name)
		w.audit(host, "resume after a full file system", name)
	}
	return nil
}

func (w *rooms) remember(host backstay.HostName, key string) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.alarm[string(host)+" "+key] = time.Now()
}

func (w *rooms) forget(host backstay.HostName, key string) bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	_, ok := w.alarm[string(host)+" "+key]
	delete(w.alarm, string(host)+" "+key)
	return ok
}

// tell says something in the log and the audit log, and not again too soon.
func (w *rooms) tell(host backstay.HostName, key, what string, args ...any) {
	w.mu.Lock()
	last, told := w.alarm[string(host)+" "+key]
	quiet := told && time.Since(last) < alarmAgain
	if !quiet {
		w.alarm[string(host)+" "+key] = time.Now()
	}
	w.mu.Unlock()
	if quiet {
		return
	}
	w.log.Warn(what, append([]any{"host", host}, args...)...)
	var about []string
	for i := 0; i+1 < len(args); i += 2 {
		about = append(about, fmt.Sprintf("%v: %v", args[i], args[i+1]))
	}
	w.audit(host, what, strings.Join(about, ", "))
}

func (w *rooms) audit(host backstay.HostName, what, about string) {
	ctx, cancel := context.WithTimeout(context.Background(), 10*time.Second)
	defer cancel()
	entry := backstay.AuditEntry{Time: utcNow(), User: scheduler, Action: what, Target: string(host), Outcome: about}
	if err := w.catalog.Audit.Append(ctx, entry); err != nil {
		w.log.Error("audit entry lost", "error", err, "action", what)
	}
}
