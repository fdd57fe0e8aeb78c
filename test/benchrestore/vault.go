package main

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// disk is the one that is full of data.
const disk backstay.DiskTarget = "vdb"

// Of the disk's blocks of 1 MiB so many are data, the others holes; half of each
// block is noise and half repeats, as what people keep compresses to half.
const dataOf80 = 57

// changedOf is what is changed for each 8 GiB of the disk, in runs of 64 KiB all
// over it.
const (
	changedOf  = 430 * mib
	changedRun = 64 << 10
)

// vaults measures disks out of the vault: whole, beside a sparse copy of the same
// image; and in place, only what differs, beside all of it.
func (b *bench) vaults(ctx context.Context) error {
	if err := b.world.AddVM(ctx, sandbox.VMSpec{Name: bulk, Off: true, Disks: []sandbox.DiskSpec{{}, {Raw: true, Size: b.o.bulk, Blank: true}}}); err != nil {
		return err
	}
	image := b.host.Outside(sandbox.Images + "/bulk-vdb.img")
	b.logf("write %d MiB", b.o.bulk/mib*dataOf80/80)
	if err := fill(image, b.o.bulk); err != nil {
		return err
	}
	if err := b.protect(ctx, bulk, "vda"); err != nil {
		return err
	}
	b.logf("back it up")
	point, err := b.backup(ctx, bulk, backstay.VaultTier)
	if err != nil {
		return err
	}
	rounds := max(1, min(2, b.o.rounds))
	for range rounds {
		if err := errors.Join(b.copyWhole(ctx, image), b.restoreWhole(ctx, point)); err != nil {
			return err
		}
	}
	for round := range rounds {
		if err := b.inPlace(ctx, point, round); err != nil {
			return err
		}
	}
	return nil
}

// fill writes the image, the same in each run.
func fill(path string, size int64) error {
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	noise, block := rand.NewChaCha8([32]byte{1}), make([]byte, mib)
	for i := range block {
		block[i] = byte(i / 97)
	}
	for at := int64(0); at+mib <= size; at += mib {
		if at/mib%80 >= dataOf80 {
			continue
		}
		for page := 0; page < len(block); page += 4096 {
			_, _ = noise.Read(block[page : page+2048]) // it never fails
		}
		if _, err := f.WriteAt(block, at); err != nil {
			return err
		}
	}
	return errors.Join(f.Sync(), f.Close())
}

// cold drops files from the machine's memory.
func cold(roots ...string) error {
	for _, root := range roots {
		err := filepath.WalkDir(root, func(path string, d fs.DirEntry, err error) error {
			if err != nil || !d.Type().IsRegular() {
				return err
			}
			f, err := os.Open(path)
			if err != nil {
				return err
			}
			defer f.Close()
			return unix.Fadvise(int(f.Fd()), 0, 0, unix.FADV_DONTNEED)
		})
		if err != nil {
			return fmt.Errorf("drop %s from memory: %w", root, err)
		}
	}
	return nil
}

func (b *bench) units() []string {
	var dirs []string
	for _, unit := range b.world.Region.Units {
		dirs = append(dirs, strings.TrimPrefix(unit, "file://"))
	}
	return dirs
}

// copyWhole copies the image as one would by hand.
func (b *bench) copyWhole(ctx context.Context, image string) error {
	target := image + ".copy"
	defer os.Remove(target)
	if err := cold(image); err != nil {
		return err
	}
	theirs, err := timed(func() error {
		return exec.CommandContext(ctx, "sh", "-c", `cp --sparse=always "$1" "$2" && sync "$2"`, "sh", image, target).Run()
	})
	if err != nil {
		return fmt.Errorf("copy the image: %w", err)
	}
	return b.record("vault/copy", theirs)
}

func (b *bench) restoreWhole(ctx context.Context, point backstay.PointID) error {
	folder := sandbox.Images + "/" + b.fresh("disks")
	if err := cold(b.units()...); err != nil {
		return err
	}
	ours, err := timed(func() error {
		_, err := b.restore(ctx, backstay.RestoreRequest{
			Kind: backstay.RestoreDisks, Point: point, Tier: backstay.VaultTier, Disks: []backstay.DiskTarget{disk}, To: folder, Format: "raw",
		})
		return err
	})
	if err != nil {
		return err
	}
	if err := os.RemoveAll(b.host.Outside(folder)); err != nil {
		return err
	}
	return b.record("vault/disks", ours)
}

// inPlace changes the disk and puts the point's content back, once only what
// differs and once all of it.
func (b *bench) inPlace(ctx context.Context, point backstay.PointID, round int) error {
	for _, full := range []bool{false, true} {
		name := map[bool]string{false: "differences", true: "full"}[full]
		changed, err := b.change(ctx, uint64(2*round)+uint64(len(name)))
		if err != nil {
			return err
		}
		if err := cold(b.units()...); err != nil {
			return err
		}
		var job backstay.Job
		seconds, err := timed(func() error {
			job, err = b.restore(ctx, backstay.RestoreRequest{
				Kind: backstay.ReplaceDisks, Point: point, Tier: backstay.VaultTier, Disks: []backstay.DiskTarget{disk}, Full: full,
			})
			return err
		})
		if err != nil {
			return err
		}
		for figure, v := range map[string]float64{"": seconds, "-written": float64(job.Stats.BytesNew), "-changed": float64(changed)} {
			if err := b.record("vault/"+name+figure, v); err != nil {
				return err
			}
		}
	}
	return nil
}

// change writes all over the disk of the VM, which is off, through its active
// layer, and returns how many bytes.
func (b *bench) change(ctx context.Context, seed uint64) (int64, error) {
	disks, err := b.host.Disks(ctx, bulk)
	if err != nil {
		return 0, err
	}
	runs := b.o.bulk / (8 * gib / mib) * (changedOf / changedRun) / mib
	r := rand.New(rand.NewPCG(seed, 1))
	var commands strings.Builder
	for _, at := range r.Perm(int(b.o.bulk / changedRun))[:runs] {
		fmt.Fprintf(&commands, "write -q -P %d %d %d\n", 1+seed%200, int64(at)*changedRun, changedRun)
	}
	commands.WriteString("flush\n")
	for _, d := range disks {
		if d.Target != string(disk) {
			continue
		}
		write := b.host.Command(ctx, "qemu-io", "-f", d.Format, d.Path)
		write.Stdin = strings.NewReader(commands.String())
		if out, err := write.CombinedOutput(); err != nil {
			return 0, fmt.Errorf("change the disk: %w: %s", err, out)
		}
		return runs * changedRun, nil
	}
	return 0, fmt.Errorf("VM %s has no disk %s", bulk, disk)
}

// undo takes a restore back, as its user would.
func (b *bench) undo(ctx context.Context, job backstay.Job) error {
	answer, err := b.client.UndoRestore(ctx, job.ID, backstay.UndoRequest{})
	if err != nil {
		return err
	}
	undone, err := b.await(ctx, *answer.Job)
	b.logf("  undo: %s", steps(undone))
	return err
}
