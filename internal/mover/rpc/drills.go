package rpc

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func registerDrills(s *side, m mover.Mover) {
	handle(s, "OpenDrill", func(ctx context.Context, r mover.DrillRequest, _ func(none)) (mover.DrillNetwork, error) {
		return m.OpenDrill(ctx, r)
	})
	handle(s, "LookDrill", func(ctx context.Context, r mover.DrillProbeRequest, _ func(none)) (mover.DrillSeen, error) {
		return m.LookDrill(ctx, r)
	})
	handle(s, "ProbeDrill", func(ctx context.Context, r mover.DrillProbeRequest, _ func(none)) (mover.DrillProbed, error) {
		return m.ProbeDrill(ctx, r)
	})
	handle(s, "Picture", func(ctx context.Context, vm backstay.VMID, _ func(none)) (mover.Picture, error) {
		return m.Picture(ctx, vm)
	})
	handle(s, "CloseDrill", func(ctx context.Context, job backstay.JobID, _ func(none)) (none, error) {
		return none{}, m.CloseDrill(ctx, job)
	})
}

// OpenDrill is mover.Drills'.
func (c *Client) OpenDrill(ctx context.Context, r mover.DrillRequest) (mover.DrillNetwork, error) {
	return call[mover.DrillNetwork, none](ctx, c, "OpenDrill", r, nil)
}

// LookDrill is mover.Drills'.
func (c *Client) LookDrill(ctx context.Context, r mover.DrillProbeRequest) (mover.DrillSeen, error) {
	return call[mover.DrillSeen, none](ctx, c, "LookDrill", r, nil)
}

// ProbeDrill is mover.Drills'.
func (c *Client) ProbeDrill(ctx context.Context, r mover.DrillProbeRequest) (mover.DrillProbed, error) {
	return call[mover.DrillProbed, none](ctx, c, "ProbeDrill", r, nil)
}

// Picture is mover.Drills'.
func (c *Client) Picture(ctx context.Context, vm backstay.VMID) (mover.Picture, error) {
	return call[mover.Picture, none](ctx, c, "Picture", vm, nil)
}

// CloseDrill is mover.Drills'.
func (c *Client) CloseDrill(ctx context.Context, job backstay.JobID) error {
	_, err := call[none, none](ctx, c, "CloseDrill", job, nil)
	return err
}
