package rpc

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

func registerReplaces(s *side, m mover.Mover) {
	handle(s, "Source", func(ctx context.Context, vm backstay.VMID, _ func(none)) (mover.SourceState, error) {
		return m.Source(ctx, vm)
	})
	handle(s, "Stop", func(ctx context.Context, r mover.StopRequest, _ func(none)) (mover.Stopped, error) {
		return m.Stop(ctx, r)
	})
	handle(s, "StageReplace", func(ctx context.Context, r stageWire, progress func(mover.Report)) (mover.Staged, error) {
		return m.StageReplace(ctx, r.request(), progress)
	})
	handle(s, "SwitchDisks", func(ctx context.Context, r stageWire, _ func(none)) (mover.DisksSwitched, error) {
		return m.SwitchDisks(ctx, r.request())
	})
	handle(s, "AbandonReplace", func(ctx context.Context, r stageWire, _ func(none)) (none, error) {
		return none{}, m.AbandonReplace(ctx, r.request())
	})
	handle(s, "Undo", func(ctx context.Context, r mover.UndoRequest, _ func(none)) (mover.Undone, error) {
		return m.Undo(ctx, r)
	})
	handle(s, "EndUndos", func(ctx context.Context, _ none, _ func(none)) ([]string, error) { return m.EndUndos(ctx) })
}

// Source is mover.Replaces'.
func (c *Client) Source(ctx context.Context, vm backstay.VMID) (mover.SourceState, error) {
	return call[mover.SourceState, none](ctx, c, "Source", vm, nil)
}

// Stop is mover.Replaces'.
func (c *Client) Stop(ctx context.Context, r mover.StopRequest) (mover.Stopped, error) {
	return call[mover.Stopped, none](ctx, c, "Stop", r, nil)
}

// StageReplace is mover.Replaces'.
func (c *Client) StageReplace(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	return call[mover.Staged](ctx, c, "StageReplace", toStageWire(r), progress)
}

// SwitchDisks is mover.Replaces'.
func (c *Client) SwitchDisks(ctx context.Context, r mover.StageRequest) (mover.DisksSwitched, error) {
	return call[mover.DisksSwitched, none](ctx, c, "SwitchDisks", toStageWire(r), nil)
}

// AbandonReplace is mover.Replaces'.
func (c *Client) AbandonReplace(ctx context.Context, r mover.StageRequest) error {
	_, err := call[none, none](ctx, c, "AbandonReplace", toStageWire(r), nil)
	return err
}

// Undo is mover.Replaces'.
func (c *Client) Undo(ctx context.Context, r mover.UndoRequest) (mover.Undone, error) {
	return call[mover.Undone, none](ctx, c, "Undo", r, nil)
}

// EndUndos is mover.Replaces'.
func (c *Client) EndUndos(ctx context.Context) ([]string, error) {
	return call[[]string, none](ctx, c, "EndUndos", none{}, nil)
}
