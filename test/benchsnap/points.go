package main

import (
	"context"
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// churnBytes is how much is written between a snapshot and the merge of its layer.
const churnBytes = 128 * mib

// points measures points and merges: ours and those by hand, in turn, each from
// the same state, with the guest on its own files.
func (b *bench) points(ctx context.Context) error {
	if err := errors.Join(b.protect(ctx, work), b.protect(ctx, big)); err != nil {
		return err
	}
	if err := b.warm(ctx); err != nil {
		return err
	}
	for round := range b.o.rounds {
		steps := []func(context.Context) error{b.ourPoint, b.theirPoint, b.ourOldest}
		if round%2 == 1 {
			steps = []func(context.Context) error{b.theirPoint, b.ourPoint, b.ourOldest}
		}
		if _, err := b.stall(ctx, "points/idle", work, sleep(time.Second)); err != nil {
			return err
		}
		for _, step := range append(steps, b.times) {
			if err := step(ctx); err != nil {
				return err
			}
		}
	}
	return nil
}

// warm does everything once that is only done once: the writer's files are there,
// programs are in the cache.
func (b *bench) warm(ctx context.Context) error {
	if err := b.churn(ctx, work, churnBytes); err != nil {
		return err
	}
	if _, err := b.watch(ctx, work, sleep(2*time.Second)); err != nil {
		return err
	}
	for _, vm := range []string{work, big} {
		job, err := b.backup(ctx, vm, backstay.SnapshotTier)
		if err != nil {
			return err
		}
		if err := b.drop(ctx, job.Point); err != nil {
			return err
		}
	}
	return nil
}

// point takes a point of the working guest in the snapshot tier.
func (b *bench) point(name string) (func(context.Context) error, *backstay.PointID) {
	var id backstay.PointID
	return func(ctx context.Context) error {
		job, err := b.backup(ctx, work, backstay.SnapshotTier)
		if err != nil {
			return err
		}
		id = job.Point
		if name == "" {
			return nil
		}
		return b.figures.Add(name, float64(job.Stats.FreezeMs))
	}, &id
}

func (b *bench) ourPoint(ctx context.Context) error {
	take, id := b.point("points/ours/frozen")
	if _, err := b.stall(ctx, "points/ours/point", work, take); err != nil {
		return err
	}
	if err := b.churn(ctx, work, churnBytes); err != nil {
		return err
	}
	_, err := b.stall(ctx, "points/ours/newest", work, func(ctx context.Context) error { return b.drop(ctx, *id) })
	return err
}

// ourOldest is what retention does day by day: the oldest of several points goes.
func (b *bench) ourOldest(ctx context.Context) error {
	take, oldest := b.point("")
	if err := errors.Join(take(ctx), b.churn(ctx, work, churnBytes)); err != nil {
		return err
	}
	take, newest := b.point("")
	if err := take(ctx); err != nil {
		return err
	}
	_, err := b.stall(ctx, "points/ours/oldest", work, func(ctx context.Context) error { return b.drop(ctx, *oldest) })
	if err != nil {
		return err
	}
	return b.drop(ctx, *newest)
}

// byHand is the plain recipe: libvirt makes the overlays itself.
func (b *bench) byHand(ctx context.Context) error {
	return b.virsh(ctx, "snapshot-create-as", work, "hand", "--disk-only", "--atomic", "--no-metadata", "--quiesce")
}

// commitByHand merges both overlays back.
func (b *bench) commitByHand(ctx context.Context) error {
	for _, disk := range []string{"vda", "vdb"} {
		if err := b.virsh(ctx, "blockcommit", work, disk, "--active", "--pivot"); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) theirPoint(ctx context.Context) error {
	if _, err := b.stall(ctx, "points/hand/point", work, b.byHand); err != nil {
		return err
	}
	if err := b.churn(ctx, work, churnBytes); err != nil {
		return err
	}
	if _, err := b.stall(ctx, "points/hand/merge", work, b.commitByHand); err != nil {
		return err
	}
	return b.remove(work + "-*.hand")
}

// times measures how long it takes from the trigger to the restorable point, of
// guests that have nothing to do.
func (b *bench) times(ctx context.Context) error {
	for _, vm := range []string{work, big} {
		began := time.Now()
		job, err := b.backup(ctx, vm, backstay.SnapshotTier)
		if err != nil {
			return err
		}
		if err := b.record("points/ours/time-"+vm, time.Since(began).Seconds()); err != nil {
			return err
		}
		if err := b.drop(ctx, job.Point); err != nil {
			return err
		}
	}
	began := time.Now()
	if err := b.byHand(ctx); err != nil {
		return err
	}
	if err := b.record("points/hand/time", time.Since(began).Seconds()); err != nil {
		return err
	}
	return errors.Join(b.commitByHand(ctx), b.remove(work+"-*.hand"))
}
