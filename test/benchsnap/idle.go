package main

import (
	"context"
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// idle measures second backups of guests in which nothing happens: with a sparse
// disk of 1 TiB, and with one of 1 GiB.
func (b *bench) idle(ctx context.Context) error {
	for _, vm := range []string{work, big} {
		if err := errors.Join(b.unprotected(ctx, vm), b.protect(ctx, vm)); err != nil {
			return err
		}
		// The first to have a vault with everything, the second to have a point
		// whose parent is of an idle guest too.
		for range 2 {
			if _, err := b.backup(ctx, vm, backstay.VaultTier); err != nil {
				return err
			}
		}
	}
	for round := range max(3, b.o.rounds/2) {
		vms := []string{work, big}
		if round%2 == 1 {
			vms = []string{big, work}
		}
		for _, vm := range vms {
			began := time.Now()
			job, err := b.backup(ctx, vm, backstay.VaultTier)
			if err != nil {
				return err
			}
			err = errors.Join(b.record("idle/time-"+vm, time.Since(began).Seconds()), b.record("idle/read-"+vm, float64(job.Stats.BytesRead)))
			if err != nil {
				return err
			}
		}
	}
	return nil
}
