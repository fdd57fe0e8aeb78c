package main

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// sizes are the VMs on which time must not depend on the disk.
var sizes = []struct {
	vm   string
	size int64
}{{work, gib}, {big, tib}}

// none is for a restore that is done when the VM runs.
var none = backstay.Probe{Kind: backstay.ProbeNone}

// creates measures a new VM from the snapshot tier beside `virsh define` and
// `virsh start` of the same VM when its image is ready.
func (b *bench) creates(ctx context.Context) error {
	for _, s := range sizes {
		if err := b.guest(ctx, s.vm, s.size); err != nil {
			return err
		}
		point, err := b.backup(ctx, s.vm, backstay.SnapshotTier)
		if err != nil {
			return err
		}
		for range b.o.rounds {
			if err := b.create(ctx, s.vm, point); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) create(ctx context.Context, vm string, point backstay.PointID) error {
	name := b.fresh("copy")
	ours, err := timed(func() error {
		_, err := b.restore(ctx, backstay.RestoreRequest{Kind: backstay.CreateVM, Point: point, Tier: backstay.SnapshotTier, Name: name, Probe: none})
		return err
	})
	if err != nil {
		return err
	}
	// The image is ready now: define and start the same again, by hand.
	xml, err := b.virsh(ctx, "dumpxml", "--inactive", "--security-info", name)
	if err != nil {
		return err
	}
	files, err := b.host.Disks(ctx, name)
	if err != nil {
		return err
	}
	if err := b.discard(ctx, name, nil); err != nil {
		return err
	}
	definition := filepath.Join(b.world.Dir, name+".xml")
	if err := os.WriteFile(definition, []byte(xml), 0o600); err != nil {
		return err
	}
	theirs, err := timed(func() error {
		if _, err := b.virsh(ctx, "define", definition); err != nil {
			return err
		}
		_, err := b.virsh(ctx, "start", name)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.discard(ctx, name, files); err != nil {
		return err
	}
	if err := b.record("create/ours-"+vm, ours); err != nil {
		return err
	}
	return b.record("create/theirs-"+vm, theirs)
}

// replaces measures the disks of a point in the VM that it is of, from the VM off
// to the VM running, beside `virsh start` alone; and the way back.
func (b *bench) replaces(ctx context.Context) error {
	for _, s := range sizes {
		if err := b.guest(ctx, s.vm, s.size); err != nil {
			return err
		}
		point, err := b.backup(ctx, s.vm, backstay.SnapshotTier)
		if err != nil {
			return err
		}
		for range b.o.rounds {
			if err := b.replace(ctx, s.vm, point); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) replace(ctx context.Context, vm string, point backstay.PointID) error {
	alone, err := timed(func() error {
		_, err := b.virsh(ctx, "start", vm)
		return err
	})
	if err != nil {
		return err
	}
	if err := b.host.Destroy(ctx, vm); err != nil {
		return err
	}
	var job backstay.Job
	ours, err := timed(func() error {
		answer, err := b.client.StartRestore(ctx, backstay.RestoreRequest{
			Kind: backstay.ReplaceDisks, Point: point, Tier: backstay.SnapshotTier, Start: true,
		})
		if err != nil {
			return err
		}
		job = *answer.Job
		return b.runs(ctx, vm, job)
	})
	if err != nil {
		return err
	}
	if job, err = b.await(ctx, job); err != nil {
		return err
	}
	if err := b.host.Destroy(ctx, vm); err != nil {
		return err
	}
	undo, err := timed(func() error { return b.undo(ctx, job) })
	if err != nil {
		return err
	}
	for name, v := range map[string]float64{"replace/start-": alone, "replace/ours-": ours, "replace/undo-": undo} {
		if err := b.record(name+vm, v); err != nil {
			return err
		}
	}
	return nil
}

// runs waits until a VM runs, or the job that is to start it has failed.
func (b *bench) runs(ctx context.Context, vm string, job backstay.Job) error {
	for {
		if state, err := b.host.State(ctx, vm); err != nil || state == sandbox.Running {
			return err
		}
		if err := sleep(ctx, 5*time.Millisecond); err != nil {
			return err
		}
		now, err := b.client.Job(ctx, job.ID)
		if err != nil {
			return err
		}
		if now.State == backstay.JobFailed || now.State == backstay.JobCancelled {
			_, err := b.await(ctx, now)
			return err
		}
	}
}

// lives measures until the guest's agent answers: of a VM that is restored live
// from the vault, and of one that boots from a local disk.
func (b *bench) lives(ctx context.Context) error {
	if err := b.guest(ctx, work, gib); err != nil {
		return err
	}
	point, err := b.backup(ctx, work, backstay.VaultTier)
	if err != nil {
		return err
	}
	for range (b.o.rounds + 1) / 2 {
		local, err := timed(func() error {
			if err := b.host.Start(ctx, work); err != nil {
				return err
			}
			return b.answers(ctx, work)
		})
		if err != nil {
			return err
		}
		if err := b.host.Destroy(ctx, work); err != nil {
			return err
		}
		if err := b.live(ctx, point); err != nil {
			return err
		}
		if err := b.record("live/local", local); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) live(ctx context.Context, point backstay.PointID) error {
	name := b.fresh("live")
	var job backstay.Job
	ours, err := timed(func() error {
		answer, err := b.client.StartRestore(ctx, backstay.RestoreRequest{Kind: backstay.CreateVM, Point: point, Tier: backstay.VaultTier, Name: name, Live: true})
		if err != nil {
			return err
		}
		job = *answer.Job
		return b.answers(ctx, name)
	})
	if err != nil {
		return err
	}
	if _, err := b.await(ctx, job); err != nil {
		return err
	}
	whole, err := b.client.Job(ctx, job.ID)
	if err != nil {
		return err
	}
	if whole.Started != nil && whole.Ended != nil {
		if err := b.record("live/whole", whole.Ended.Sub(*whole.Started).Seconds()); err != nil {
			return err
		}
	}
	files, err := b.host.Disks(ctx, name)
	if err != nil {
		return err
	}
	if err := b.discard(ctx, name, files); err != nil {
		return err
	}
	return b.record("live/ours", ours)
}

// answers waits until the agent of a guest answers; the VM may not be there yet.
func (b *bench) answers(ctx context.Context, name string) error {
	ctx, cancel := context.WithTimeout(ctx, 3*time.Minute)
	defer cancel()
	for {
		ping := exec.CommandContext(ctx, "virsh", "-q", "-c", b.host.URI(), "qemu-agent-command", "--timeout", "1", name, `{"execute":"guest-ping"}`)
		if ping.Run() == nil {
			return nil
		}
		if err := sleep(ctx, 50*time.Millisecond); err != nil {
			return err
		}
	}
}
