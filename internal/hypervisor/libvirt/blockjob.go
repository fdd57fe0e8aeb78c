package libvirt

import (
	"context"
	"time"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

const (
	jobPoll     = 100 * time.Millisecond
	pivotTries  = 50
	stopTimeout = 30 * time.Second
)

type job struct {
	found    bool
	kind     libvirt.DomainBlockJobType
	cur, end uint64
}

func jobOf(l *libvirt.Libvirt, d libvirt.Domain, target backstay.DiskTarget) (job, error) {
	found, kind, _, cur, end, err := l.DomainGetBlockJobInfo(d, string(target), 0)
	return job{found != 0, libvirt.DomainBlockJobType(kind), cur, end}, err
}

// following is a block job that is waited for.
type following struct {
	target backstay.DiskTarget
	// pivots: the job does not end by itself; it becomes ready for the pivot.
	pivots   bool
	pace     *pacer
	progress func(done, total int64)
}

// follow polls until the job has ended, or is ready for the pivot, and lets it go
// as fast as it may. libvirt's events would be quicker and can be lost with the
// connection.
func (h *Host) follow(ctx context.Context, id backstay.VMID, f following) error {
	for {
		ready, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) (bool, error) {
			d, err := lookup(l, id)
			if err != nil {
				return false, err
			}
			return f.look(l, d)
		})
		if err != nil || ready {
			return err
		}
		select {
		case <-time.After(jobPoll):
		case <-ctx.Done():
			return ctx.Err()
		}
	}
}

// look tells whether the job has ended or is ready, and sets its speed.
func (f *following) look(l *libvirt.Libvirt, d libvirt.Domain) (ready bool, err error) {
	j, err := jobOf(l, d, f.target)
	if err != nil || !j.found {
		return !j.found, err
	}
	if f.progress != nil {
		f.progress(int64(j.cur), int64(j.end))
	}
	if f.pivots && j.cur == j.end {
		e, err := liveDisk(l, d, f.target)
		if err != nil || attr(e, "mirror", "ready") == "yes" {
			return err == nil, err
		}
	}
	if speed, set := f.pace.next(time.Now(), j, f.pivots); set {
		err = l.DomainBlockJobSetSpeed(d, string(f.target), speed, libvirt.DomainBlockJobSpeedBandwidthBytes)
		if now, again := jobOf(l, d, f.target); err != nil && again == nil && !now.found {
			return true, nil // it ended in between
		}
	}
	return false, err
}

func (h *Host) pivot(ctx context.Context, id backstay.VMID, target backstay.DiskTarget) error {
	ctx = context.WithoutCancel(ctx) // the caller must learn where the VM is
	return h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		for range pivotTries {
			err = l.DomainBlockJobAbort(d, string(target), libvirt.DomainBlockJobAbortPivot)
			if !isCode(err, libvirt.ErrBlockCopyActive) {
				return err
			}
			time.Sleep(jobPoll) // the guest wrote in between: not ready again yet
		}
		return err
	})
}

// abort ends a job that is not wanted any more. No job is no error.
func (h *Host) abort(ctx context.Context, id backstay.VMID, target backstay.DiskTarget) error {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), stopTimeout)
	defer cancel()
	return h.do(ctx, callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		if j, err := jobOf(l, d, target); err != nil || !j.found {
			return err
		}
		return l.DomainBlockJobAbort(d, string(target), 0)
	})
}

// patience is how long a job that mirrors what the guest writes may come no
// nearer to its end, before it goes faster than it should.
const patience = 10 * time.Second

// pacer decides the speed of a block job from what its throttle says and from
// how far it comes. A job that mirrors a disk never ends if the guest writes as
// fast as it copies: then its speed is doubled until it gains, for a merge that
// never ends costs the guest its room.
type pacer struct {
	throttle hypervisor.Throttle
	speed    uint64    // as it was set last; 0 is none
	ramp     uint64    // the most that it may be yet; 0 is anything
	boost    int64     // by how much the throttle is outdone
	since    time.Time // when it was last looked whether the job gains
	left     uint64    // bytes from its end, then
}

// waiting is the speed of a job that is to wait, in bytes per second: 0 would
// mean no limit.
const waiting = 1

// leastBoosted is what a throttle is taken for when it is outdone, in bytes per
// second.
const leastBoosted = 1 << 20

// A job starts at this speed and doubles it each time that it is looked at, up to
// where no disk is faster, in bytes per second: the throttle needs a moment to
// see what the guest feels, and a small merge would be over by then, at its cost.
const (
	firstSpeed   = 32 << 20
	fastestSpeed = 8 << 30
)

// first returns the speed to start with.
func (p *pacer) first() uint64 {
	p.ramp = firstSpeed
	p.speed = p.ramped()
	return p.speed
}

// ramped is what is wanted, as far as the job may go yet.
func (p *pacer) ramped() uint64 {
	wanted := p.wanted()
	if p.ramp > 0 && (wanted == 0 || wanted > p.ramp) {
		return p.ramp
	}
	return wanted
}

func (p *pacer) wanted() uint64 {
	limit := p.throttle.Limit()
	switch {
	case limit == 0:
		return 0
	case limit < 0 && p.boost == 0:
		return waiting
	case p.boost == 0:
		return uint64(limit)
	}
	return uint64(max(limit, leastBoosted) * p.boost)
}

// next returns the speed to go on with, and whether it is another than before.
func (p *pacer) next(now time.Time, j job, mirrors bool) (speed uint64, set bool) {
	left := j.end - min(j.cur, j.end)
	if over := now.Sub(p.since); p.since.IsZero() || over >= patience {
		if mirrors && !p.since.IsZero() && left > 0 && left >= p.left {
			p.boost = min(max(p.boost, 1)*2, 1<<20)
		}
		p.since, p.left = now, left
	}
	if p.ramp *= 2; p.ramp > fastestSpeed {
		p.ramp = 0
	}
	speed = p.ramped()
	set = speed != p.speed
	p.speed = speed
	return speed, set
}
