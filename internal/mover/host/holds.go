package host

import (
	"context"

	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

func holdOf(r mover.HoldRequest) snapshot.HoldRequest {
	return snapshot.HoldRequest{
		Point: r.Point, VM: r.VM, Wish: r.Consistency, Fallback: r.Fallback, Guest: r.Guest, Budget: r.Budget,
	}
}

func heldOf(o quiesce.Outcome) mover.Held {
	return mover.Held{Consistency: o.Consistency, Reason: o.Reason, FreezeMs: o.FreezeMs, Notes: o.Notes}
}

// Ready does what is slow and comes before a group's instant.
func (h *Host) Ready(ctx context.Context, r mover.HoldRequest) error {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return err
	}
	defer unlock()
	return h.tier.Ready(ctx, holdOf(r))
}

// Hold makes a VM of a group stand still.
func (h *Host) Hold(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return mover.Held{}, err
	}
	defer unlock()
	o, err := h.tier.Hold(ctx, holdOf(r))
	return heldOf(o), err
}

// LetGo lets a VM of a group go on.
func (h *Host) LetGo(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	unlock, err := h.vms.lock(ctx, string(r.VM))
	if err != nil {
		return mover.Held{}, err
	}
	defer unlock()
	o, err := h.tier.LetGo(ctx, holdOf(r))
	return heldOf(o), err
}
