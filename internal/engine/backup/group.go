package backup

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// letGoLimit bounds how long the letting go of a group may take: its guests go
// on at once, but a post hook may run for half an hour. A guest that cannot be
// told is let go by what guards its hold (I9).
const letGoLimit = 35 * time.Minute

// takeTogether takes the snapshots of a group at one instant and records them, or
// takes none. What an earlier life took is dropped: nobody knows any more whether
// all guests were held until the last of them was taken.
func (b *backupRun) takeTogether(ctx context.Context, again bool) error {
	if again && !b.state.Together {
		if err := b.undoTogether(ctx); err != nil {
			return err
		}
		for _, m := range b.state.Members {
			m.Point = b.NewPoint()
		}
		if err := b.run.Save(b.state); err != nil {
			return err
		}
		if err := b.prepareAll(ctx); err != nil {
			return err
		}
	}
	if !b.state.Together {
		if err := b.holdAndTake(ctx); err != nil {
			return err
		}
		b.state.Together = true
		if err := b.run.Save(b.state); err != nil {
			return err
		}
	}
	for _, m := range b.state.Members {
		// What is recorded beside the disk is what holds of the point in the end.
		taken, found, err := m.mover.Settle(ctx, m.VM, m.Point)
		if err != nil {
			return err
		}
		if !found {
			return backstay.Errorf(backstay.CodeSnapshotFailed, "the snapshot of %s was lost", m.label())
		}
		if err := b.record(ctx, m, taken); err != nil {
			return err
		}
	}
	return nil
}

// holdAndTake holds all guests, takes all snapshots, and lets all guests go. On
// any error there is no point of the group, whatever was taken.
func (b *backupRun) holdAndTake(ctx context.Context) (err error) {
	members := b.state.Members
	defer func() {
		if letErr := b.letGo(ctx, members); err == nil {
			err = letErr
		}
	}()
	err = b.each(members, func(_ int, m *member) error { return m.mover.Ready(ctx, b.holdRequest(m)) })
	if err != nil {
		return err
	}
	instant := b.Now()
	err = b.each(members, func(_ int, m *member) error {
		_, err := m.mover.Hold(ctx, b.holdRequest(m)) // LetGo tells the notes
		return err
	})
	if err != nil {
		return err
	}
	err = b.each(members, func(_ int, m *member) error {
		request := b.takeRequest(m, instant)
		request.Held = true
		_, err := m.mover.Take(ctx, request)
		return err
	})
	return err
}

// holdRequest names a member of the group. All are held as long as the most
// impatient of them allows, since none may go on before the last was taken.
func (b *backupRun) holdRequest(m *member) mover.HoldRequest {
	budget := time.Duration(0)
	for _, other := range b.state.Members {
		own := other.policy.Guest.FreezeBudget
		if own == 0 {
			own = backstay.DefaultFreezeBudget
		}
		if budget == 0 || time.Duration(own) < budget {
			budget = time.Duration(own)
		}
	}
	return mover.HoldRequest{
		Job: b.run.Job().ID, Point: m.Point, VM: m.VM, Consistency: m.wish, Fallback: m.policy.Fallback,
		Guest: m.policy.Guest, Budget: budget,
	}
}

// letGo lets guests go on, also those whose hold failed: nobody knows how far it
// came (I9).
func (b *backupRun) letGo(ctx context.Context, members []*member) error {
	ctx, done := context.WithTimeout(context.WithoutCancel(ctx), letGoLimit)
	defer done()
	notes := make([][]string, len(members))
	err := b.each(members, func(i int, m *member) error {
		held, err := m.mover.LetGo(ctx, b.holdRequest(m))
		notes[i] = held.Notes
		return err
	})
	for i, m := range members {
		for _, note := range notes[i] {
			err = errors.Join(err, b.run.Warn(m.label()+": "+note))
		}
	}
	return err
}

// each runs fn for the members at once and returns the first error that one of
// them has, with its VM's name.
func (b *backupRun) each(members []*member, fn func(int, *member) error) error {
	errs := make([]error, len(members))
	var all sync.WaitGroup
	for i, m := range members {
		all.Go(func() { errs[i] = fn(i, m) })
	}
	all.Wait()
	for i, err := range errs {
		if err != nil {
			return b.noneTaken(members[i], err)
		}
	}
	return nil
}

// noneTaken says of which VM no point could be taken, and so of none.
func (b *backupRun) noneTaken(m *member, err error) error {
	var coded *backstay.Error
	if !errors.As(err, &coded) {
		return fmt.Errorf("take the point of %s: %w", m.label(), err)
	}
	return backstay.Errorf(coded.Code, "no point of the group %s was taken, since %s cannot have one", b.params.Group, m.label()).
		Becausef("%s", coded.Error()).Do("%s", coded.Action)
}

// undoTogether lets the guests go and takes away what was made of the group's
// points, wherever the taking of them broke off.
func (b *backupRun) undoTogether(ctx context.Context) error {
	var reached []*member
	for _, m := range b.state.Members {
		if m.Point != "" && m.mover != nil {
			reached = append(reached, m)
		}
	}
	var failures []error
	if b.state.Attempted {
		// Whether a point is of the group's instant does not matter any more.
		if err := b.letGo(ctx, reached); err != nil && !backstay.IsCode(err, backstay.CodeSnapshotFailed) {
			failures = append(failures, err)
		}
	}
	for _, m := range reached {
		if err := b.undo(ctx, m); err != nil {
			failures = append(failures, fmt.Errorf("%s: %w", m.label(), err))
		}
	}
	return errors.Join(failures...)
}

// undo takes away one member's point: from the catalogue first, which then offers
// it no more.
func (b *backupRun) undo(ctx context.Context, m *member) error {
	_, found, err := m.mover.Settle(ctx, m.VM, m.Point)
	if err != nil {
		return err
	}
	if err := b.Catalog.Points.DeletePoint(ctx, m.Point); err != nil {
		return err
	}
	m.Recorded, m.Skip = false, ""
	if !found {
		return nil
	}
	return m.mover.DropPoint(ctx, m.Point, func(mover.Report) {})
}

// abandonTogether ends a job that has not a point of every VM of its group: then
// it has none.
func (b *backupRun) abandonTogether(ctx context.Context, failure error) error {
	if err := b.undoTogether(ctx); err != nil {
		return fmt.Errorf("%w (and what it left could not be removed yet: %v)", failure, err)
	}
	return failure
}
