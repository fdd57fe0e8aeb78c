package main

import (
	"context"
	"errors"
	"time"

	"github.com/backstay/backstay/internal/sandbox"
)

// lists measures the first listing of a folder: with a mover that has just started
// and knows nothing, with a machine of the pool, and libguestfs on the image itself.
func (b *bench) lists(ctx context.Context) error {
	for range b.o.rounds {
		if err := b.listCold(ctx); err != nil {
			return err
		}
		if err := b.listPool(ctx); err != nil {
			return err
		}
		if err := cold(b.image); err != nil {
			return err
		}
		if err := b.measured("list/libguestfs", func() error { return b.onImage(ctx, "ls", folder) }); err != nil {
			return err
		}
	}
	return nil
}

// listCold lists right after the mover has started, so that no machine waits.
func (b *bench) listCold(ctx context.Context) error {
	if err := b.fresh(ctx); err != nil {
		return err
	}
	if err := b.measured("list/cold", func() error { return b.ls(ctx) }); err != nil {
		return err
	}
	return b.end(ctx)
}

// listPool lists when a machine of the pool has been up for a while, of which
// nothing is read yet.
func (b *bench) listPool(ctx context.Context) error {
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	if err := cold(b.units()...); err != nil {
		return err
	}
	if err := b.measured("list/pool", func() error { return b.ls(ctx) }); err != nil {
		return err
	}
	return b.end(ctx)
}

// settle is longer than a small machine takes to start without KVM.
const settle = 15 * time.Second

// ls lists a folder of the point, which opens a session if there is none.
func (b *bench) ls(ctx context.Context) error {
	return b.backstay(ctx, nil, "files", "ls", b.point, volume+":"+folder)
}

// end ends all sessions.
func (b *bench) end(ctx context.Context) error {
	sessions, err := b.client.FileSessions(ctx)
	for _, s := range sessions {
		err = errors.Join(err, b.client.EndFileSession(ctx, s.ID))
	}
	return err
}

// fresh starts the mover anew, so that it holds nothing in memory, and drops the
// vault from that of the machine.
func (b *bench) fresh(ctx context.Context) error {
	if err := errors.Join(b.end(ctx), b.world.Kill(ctx, sandbox.Mover, ""), b.world.Start(ctx, sandbox.Mover, "")); err != nil {
		return err
	}
	return errors.Join(b.connected(ctx), cold(b.units()...))
}

// connected waits until the server has the host's mover.
func (b *bench) connected(ctx context.Context) error {
	return until(ctx, func() (bool, error) {
		hosts, err := b.client.Hosts(ctx)
		return err == nil && len(hosts) == 1 && hosts[0].State == "connected", err
	})
}
