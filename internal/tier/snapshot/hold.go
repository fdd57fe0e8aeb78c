package snapshot

import (
	"context"
	"errors"
	"reflect"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// HoldRequest asks to bring a VM into the state in which its point is to be
// taken, and to keep it there.
type HoldRequest struct {
	Point    backstay.PointID
	VM       backstay.VMID
	Wish     backstay.Consistency
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	// Budget is the longest that the VM is held; 0 means that of Guest.
	Budget time.Duration
}

// making is what this process knows of a point that it is taking, beyond the
// intent. It is guarded by the tier's mu; what it points to is used by whoever
// has the VM.
type making struct {
	silent  string // why the agent need not be asked
	guard   chan startedGuard
	session *quiesce.Session
	in      *intent
}

type startedGuard struct {
	guard quiesce.Guard
	err   error
}

// expect remembers of a prepared point what its guest's agent said, and starts
// the guard that it may need: that takes its time, and nobody waits for it.
func (t *Tier) expect(ctx context.Context, id backstay.PointID, vm backstay.VMID, silent string, freeze bool) {
	t.unexpect(id)
	m := &making{silent: silent}
	if freeze {
		started := make(chan startedGuard, 1)
		m.guard = started
		go func() {
			g, err := t.guards.Start(steady(ctx), vm)
			started <- startedGuard{g, err}
		}()
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	t.making[id] = m
}

// made returns what this process knows of a point that it is taking.
func (t *Tier) made(id backstay.PointID) *making {
	t.mu.Lock()
	defer t.mu.Unlock()
	m := t.making[id]
	if m == nil {
		m = &making{}
		t.making[id] = m
	}
	return m
}

// live returns the session of a point that this process holds, or nil.
func (t *Tier) live(id backstay.PointID) *making {
	t.mu.Lock()
	defer t.mu.Unlock()
	if m := t.making[id]; m != nil && m.session != nil {
		return m
	}
	return nil
}

// unexpect ends a guard that was not needed.
func (t *Tier) unexpect(id backstay.PointID) {
	t.mu.Lock()
	m := t.making[id]
	delete(t.making, id)
	t.mu.Unlock()
	if m == nil || m.guard == nil {
		return
	}
	go func() {
		if s := <-m.guard; s.err == nil {
			_, _ = s.guard.Disarm()
		}
	}()
}

// guardOf returns a guard that has not been used: the one that Prepare started,
// or another.
func (t *Tier) guardOf(ctx context.Context, m *making, vm backstay.VMID) (quiesce.Guard, error) {
	t.mu.Lock()
	waiting := m.guard
	m.guard = nil
	t.mu.Unlock()
	if waiting != nil {
		select {
		case s := <-waiting:
			if s.err == nil {
				return s.guard, nil
			}
			t.log.Warn("the guard did not start; another is", "vm", string(vm), "error", s.err)
		case <-ctx.Done():
			go func() {
				if s := <-waiting; s.err == nil {
					_, _ = s.guard.Disarm()
				}
			}()
			return nil, ctx.Err()
		}
	}
	return t.guards.Start(ctx, vm)
}

// approach does what is slow and comes before the guest is held.
func (t *Tier) approach(ctx context.Context, in *intent, r HoldRequest) (*quiesce.Session, hypervisor.Domain, error) {
	domain, err := t.domain(ctx, in.VM.UUID)
	if err != nil {
		return nil, domain, err
	}
	m := t.made(in.ID)
	s, err := quiesce.Begin(ctx, t.hv, quiesce.Request{
		VM: domain.VM, Wish: r.Wish, Fallback: r.Fallback, Rules: r.Guest, Silent: m.silent, Budget: r.Budget, Log: t.log,
		Guard:   func(ctx context.Context) (quiesce.Guard, error) { return t.guardOf(ctx, m, in.VM.UUID) },
		Journal: func(d quiesce.Debt) error { return journal(in, d) },
	})
	return s, domain, err
}

// journal writes down what is owed to a guest, unless it stands there already.
func journal(in *intent, d quiesce.Debt) error {
	owed := owedOf(d)
	if reflect.DeepEqual(in.Owed, owed) {
		return nil
	}
	in.Owed = owed
	return in.Write()
}

func owedOf(d quiesce.Debt) *record.Owed {
	if !d.Owed() {
		return nil
	}
	o := &record.Owed{Asked: d.Asked, Paused: d.Paused}
	if d.Post != nil {
		h := record.Hook(*d.Post)
		o.Post = &h
	}
	return o
}

func debtOf(in *intent) quiesce.Debt {
	d := quiesce.Debt{Asked: in.Quiesce && in.Stage == record.StageSwitching}
	if in.Owed != nil {
		d.Asked = d.Asked || in.Owed.Asked
		d.Paused = in.Owed.Paused
		if in.Owed.Post != nil {
			h := quiesce.Hook(*in.Owed.Post)
			d.Post = &h
		}
	}
	return d
}

// Ready does what is slow and comes before Hold: the application's pre hook
// runs. Hold does it if nobody else did.
func (t *Tier) Ready(ctx context.Context, r HoldRequest) error {
	if t.live(r.Point) != nil {
		return nil
	}
	in, p, err := t.prepared(ctx, r.VM, r.Point)
	if err != nil {
		return err
	}
	if p != nil {
		return backstay.Errorf(backstay.CodeSnapshotFailed, "point %s was taken already", r.Point)
	}
	s, domain, err := t.approach(ctx, in, r)
	if err != nil {
		return snapshotFailed(&domain.VM, err)
	}
	m := t.made(r.Point)
	t.mu.Lock()
	defer t.mu.Unlock()
	m.session, m.in = s, in
	return nil
}

// Hold freezes the guest's file systems, or pauses a VM in which none are to be
// frozen, so that its disks do not change until LetGo or until the budget has
// passed. It returns what will hold of the point. With an error the VM is not
// held.
func (t *Tier) Hold(ctx context.Context, r HoldRequest) (quiesce.Outcome, error) {
	if err := t.Ready(ctx, r); err != nil {
		return quiesce.Outcome{}, err
	}
	m := t.live(r.Point)
	domain, err := t.domain(ctx, r.VM)
	if err != nil {
		return quiesce.Outcome{}, err
	}
	if err := t.announce(ctx, m.in, m.session, &domain, t.now().UTC()); err != nil {
		return quiesce.Outcome{}, snapshotFailed(&domain.VM, err)
	}
	if err := m.session.Hold(ctx, true); err != nil {
		return quiesce.Outcome{}, snapshotFailed(&domain.VM, err)
	}
	return m.session.Provisional(), nil
}

// takeHeld switches the disks of a VM that Hold holds.
func (t *Tier) takeHeld(ctx context.Context, r TakeRequest) (PointRecord, error) {
	m := t.live(r.Point)
	if m == nil || m.in.Stage != record.StageSwitching {
		_, p, err := t.prepared(ctx, r.VM, r.Point)
		if err != nil || p != nil {
			return dereference(p), err
		}
		return PointRecord{}, backstay.Errorf(backstay.CodeSnapshotFailed, "the VM is not held for point %s", r.Point).
			Becausef("the mover was restarted meanwhile").Do("start the backup again")
	}
	m.in.Time = r.Time
	err := t.switchDisks(ctx, m.in, hypervisor.SwitchOptions{
		Before: func() error {
			if t.onHeld != nil && m.session.Held() {
				t.onHeld(ctx, r.VM)
			}
			return nil
		},
		After: func(err error) {
			if err == nil {
				m.session.Switched()
			}
		},
	})
	if err != nil {
		return PointRecord{}, backstay.Errorf(backstay.CodeSnapshotFailed, "the snapshot of %s failed", m.in.VM.Name).Because(err)
	}
	p, err := t.complete(steady(ctx), m.in, m.session.Provisional())
	return p, err
}

// LetGo thaws or resumes what Hold held, runs the post hook, and records what
// holds of the point in the end. No error if nothing is held.
func (t *Tier) LetGo(ctx context.Context, r HoldRequest) (quiesce.Outcome, error) {
	m := t.live(r.Point)
	if m == nil {
		b, err := t.load()
		if err != nil {
			return quiesce.Outcome{}, err
		}
		if p := b.Points[r.Point]; p != nil {
			return quiesce.Outcome{Consistency: p.Consistency, Reason: p.Reason, FreezeMs: p.FreezeMs}, nil
		}
		return quiesce.Outcome{}, nil
	}
	ctx = steady(ctx)
	m.session.LetGo(ctx)
	defer t.unexpect(r.Point)
	if m.in.Stage != record.StageSwitched && m.in.Stage != record.StageRecorded {
		o := m.session.Provisional()
		err := m.session.Abandon(ctx)
		return o, errors.Join(err, journal(m.in, quiesce.Debt{}))
	}
	p, err := t.finish(ctx, m.in, m.session)
	if err == nil && m.session.Lost() != "" {
		err = backstay.Errorf(backstay.CodeSnapshotFailed, "%s was not held until its disks were switched", m.in.VM.Name).
			Becausef("%s", m.session.Lost()).Do("give the group a longer freeze budget, or back it up at a quieter time")
	}
	return quiesce.Outcome{Consistency: p.Consistency, Reason: p.Reason, FreezeMs: p.FreezeMs, Notes: p.Notes}, err
}

// finish runs the post hook of a point that is recorded, and records what holds
// in the end. A point that is weaker than it may be is dropped.
func (t *Tier) finish(ctx context.Context, in *intent, s *quiesce.Session) (PointRecord, error) {
	o, failure := s.Finish(ctx)
	p, err := t.amend(in, o)
	if err != nil {
		return p, err
	}
	if failure != nil {
		return p, errors.Join(failure, t.Drop(ctx, in.ID, nil))
	}
	p.Notes = o.Notes
	return p, nil
}

// amend changes what a point says of its consistency, and ends its intent.
func (t *Tier) amend(in *intent, o quiesce.Outcome) (p PointRecord, err error) {
	err = t.change(func(b *book) error {
		r := b.Points[in.ID]
		if r == nil {
			return errors.New("the record of the point is gone")
		}
		if r.Consistency != o.Consistency || r.FreezeMs != o.FreezeMs {
			r.Consistency, r.Reason, r.FreezeMs = o.Consistency, o.Reason, o.FreezeMs
			if err := b.PutPoint(r); err != nil {
				return err
			}
		}
		p = *r
		return record.RemoveFile(in.Path)
	})
	return p, err
}

// allows tells whether a point may have this consistency.
func allows(in *intent, c backstay.Consistency) bool {
	return in.Allowed == nil || slices.Contains(in.Allowed, c)
}
