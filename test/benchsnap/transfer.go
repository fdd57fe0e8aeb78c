package main

import (
	"context"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
)

// transferBytes are new in each transfer that is watched.
const transferBytes = 256 * mib

// transfers measures what the guest feels of a transfer to the vault, beside the
// idle guest for the same time. The snapshot before is not in it.
func (b *bench) transfers(ctx context.Context) error {
	if err := b.unprotected(ctx, work); err != nil {
		return err
	}
	if err := b.protect(ctx, work); err != nil {
		return err
	}
	for range max(3, b.o.rounds*2/3) {
		if err := b.churn(ctx, work, transferBytes); err != nil {
			return err
		}
		took, err := b.watchedTransfer(ctx)
		if err != nil {
			return err
		}
		if _, err := b.stall(ctx, "transfer/idle", work, sleep(took)); err != nil {
			return err
		}
	}
	return nil
}

// watchedTransfer holds a backup before its transfer until the writer writes.
func (b *bench) watchedTransfer(ctx context.Context) (took time.Duration, err error) {
	const hold = "hold-transfer"
	if err := b.world.PlanFault(hold); err != nil {
		return 0, err
	}
	started, err := b.client.StartBackup(ctx, api.BackupRequest{VM: work})
	if err != nil {
		return 0, err
	}
	if err := b.world.AwaitFault(ctx, hold); err != nil {
		return 0, err
	}
	_, err = b.stall(ctx, "transfer/ours", work, func(ctx context.Context) error {
		began := time.Now()
		if err := b.world.LiftFault(hold); err != nil {
			return err
		}
		job, err := b.await(ctx, *started.Job)
		took = time.Since(began)
		if err == nil && job.Stats.BytesNew < transferBytes {
			err = fmt.Errorf("only %d bytes of the transfer were new", job.Stats.BytesNew)
		}
		return err
	})
	if err == nil {
		err = b.record("transfer/ours/seconds", took.Seconds())
	}
	return took, err
}

// unprotected ends the protection of a VM with all its points; it is on its own
// files then.
func (b *bench) unprotected(ctx context.Context, vm string) error {
	items, err := b.client.Items(ctx)
	if err != nil {
		return err
	}
	for _, item := range items {
		if item.VM.Name != vm {
			continue
		}
		points, err := b.client.Points(ctx, vm)
		if err != nil {
			return err
		}
		for _, p := range points {
			if err := b.drop(ctx, p.ID); err != nil {
				return err
			}
		}
		_, err = b.client.Unprotect(ctx, vm, client.UnprotectOptions{DeleteData: true})
		if err != nil {
			return err
		}
	}
	return b.quiet(ctx)
}

// quiet waits until no job runs.
func (b *bench) quiet(ctx context.Context) error {
	for {
		jobs, err := b.client.Jobs(ctx, 10, backstay.JobQueued, backstay.JobRunning)
		if err != nil || len(jobs) == 0 {
			return err
		}
		if _, err := b.client.Wait(ctx, jobs[0].ID); err != nil {
			return err
		}
	}
}
