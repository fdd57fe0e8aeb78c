package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// How much the guest holds and how much changes in it before an increment.
const (
	wholeBytes     = 640 * mib
	incrementBytes = 32 * mib
	increments     = 3
)

// virtnbd measures a full and incremental backups of the same guest, which goes on
// writing: ours with its snapshot, transfer and validation, in three copies, and
// virtnbdbackup's, in one. Each begins with content that it never saw.
func (b *bench) virtnbd(ctx context.Context) (err error) {
	memory, err := b.spreadVault(ctx)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(memory)) }()
	for round := range 2 {
		sides := []func(context.Context) error{b.ourBackups, b.theirBackups}
		if round%2 == 1 {
			sides = []func(context.Context) error{b.theirBackups, b.ourBackups}
		}
		for _, side := range sides {
			if err := b.unprotected(ctx, work); err != nil {
				return err
			}
			b.seed++
			if _, err := b.guest(ctx, work, "ticker fill /data/churn 0 %d %d", wholeBytes, b.seed); err != nil {
				return err
			}
			if err := side(ctx); err != nil {
				return err
			}
		}
	}
	return b.unprotected(ctx, work)
}

// spread is a vault whose first copy is on the disk, and whose others are in
// memory: they stand for disks of their own.
const spread backstay.VaultName = "spread"

// spreadVault makes the vault and returns the folder in memory.
func (b *bench) spreadVault(ctx context.Context) (memory string, err error) {
	if memory, err = os.MkdirTemp("/dev/shm", "backstay-bench-"); err != nil {
		return "", err
	}
	request := api.CreateVaultRequest{Name: spread, NoRecoveryKey: true, Force: true}
	for _, folder := range []string{filepath.Join(b.world.Dir, "spread"), filepath.Join(memory, "second"), filepath.Join(memory, "third")} {
		if err := os.Mkdir(folder, 0o700); err != nil {
			return memory, err
		}
		request.Units = append(request.Units, api.NewUnit{URL: "file://" + folder})
	}
	_, err = b.client.CreateVault(ctx, request)
	return memory, err
}

// series measures a full backup and some increments.
func (b *bench) series(ctx context.Context, name string, full, increment func(context.Context) error) error {
	if err := b.timed(ctx, name+"-full", full); err != nil {
		return err
	}
	for range increments {
		if err := b.churn(ctx, work, incrementBytes); err != nil {
			return err
		}
		if err := b.timed(ctx, name+"-increment", increment); err != nil {
			return err
		}
	}
	return nil
}

func (b *bench) timed(ctx context.Context, name string, do func(context.Context) error) error {
	var took time.Duration
	_, err := b.stall(ctx, name, work, func(ctx context.Context) error {
		began := time.Now()
		err := do(ctx)
		took = time.Since(began)
		return err
	})
	if err != nil {
		return err
	}
	return b.record(name+"/time", took.Seconds())
}

func (b *bench) ourBackups(ctx context.Context) error {
	if _, err := b.client.Protect(ctx, work, api.ProtectRequest{Policy: policy.Name, Vault: spread}); err != nil {
		return err
	}
	backup := func(ctx context.Context) error {
		_, err := b.backup(ctx, work, backstay.VaultTier)
		return err
	}
	return b.series(ctx, "virtnbd/ours", backup, backup)
}

func (b *bench) theirBackups(ctx context.Context) (err error) {
	dir := filepath.Join(b.world.Dir, "virtnbd")
	if err := os.Mkdir(dir, 0o755); err != nil {
		return err
	}
	defer func() {
		ctx := context.WithoutCancel(ctx)
		err = errors.Join(err, b.forgetCheckpoints(ctx), os.RemoveAll(dir))
	}()
	run := func(level string) func(context.Context) error {
		return func(ctx context.Context) error {
			// Its socket and scratch files are named inside the host, so it runs there.
			cmd := b.host.Command(ctx, "virtnbdbackup", "-U", "qemu:///system", "-d", work, "-l", level, "-n",
				"-o", filepath.Join(dir, "backup"), "--scratchdir", dir)
			if out, err := cmd.CombinedOutput(); err != nil {
				return fmt.Errorf("virtnbdbackup -l %s: %w: %s", level, err, strings.TrimSpace(string(out)))
			}
			return nil
		}
	}
	return b.series(ctx, "virtnbd/theirs", run("full"), run("inc"))
}

// forgetCheckpoints removes what virtnbdbackup left in libvirt and in the images.
func (b *bench) forgetCheckpoints(ctx context.Context) error {
	for {
		out, err := exec.CommandContext(ctx, "virsh", "-q", "-c", b.host.URI(), "checkpoint-list", work, "--name", "--roots").Output()
		name := strings.TrimSpace(string(out))
		if err != nil || name == "" {
			return err
		}
		if err := b.virsh(ctx, "checkpoint-delete", work, strings.Fields(name)[0], "--children"); err != nil {
			return err
		}
	}
}
