package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

const (
	layerCount = 8
	// throughputRounds is how often each kind of writing is measured on fresh
	// images: each time on a plain disk of its own.
	throughputRounds = 3
	plainDisks       = 2 * throughputRounds
	rewriteBytes     = 128 * mib
	scatteredWrites  = 16384
)

// The disks of the guest with layers: the system, one with layers, a big one on
// which points are kept, and plain ones that are blank.
const (
	layered = "vdb"
	wide    = "vdc"
)

func deepDisks() []sandbox.DiskSpec {
	disks := []sandbox.DiskSpec{{}, {Size: gib, Blank: true}, {Size: 64 * gib, Blank: true}}
	for range plainDisks {
		disks = append(disks, sandbox.DiskSpec{Size: gib, Blank: true})
	}
	return disks
}

func plainDisk(i int) string { return "vd" + string(rune('d'+i)) }

// layers measures writing to a disk with eight layers, beside plain disks of the
// same guest, and what a point keeps.
//
// Equal footing means: content that was never written is compared with such, in a
// fresh overlay and in a blank image, both of which must allocate; and content
// that is written again is compared with such. Writing the first time after a
// point costs more than writing again without one; that figure is told too.
func (b *bench) layers(ctx context.Context) error {
	exclude := []backstay.DiskTarget{"vda"}
	for i := range plainDisks {
		exclude = append(exclude, backstay.DiskTarget(plainDisk(i)))
	}
	if err := b.protect(ctx, deep, exclude...); err != nil {
		return err
	}
	var points []backstay.PointID
	take := func() error {
		job, err := b.backup(ctx, deep, backstay.SnapshotTier)
		points = append(points, job.Point)
		return err
	}
	for i := range layerCount - 1 {
		if err := take(); err != nil {
			return err
		}
		// Every layer holds something.
		if _, err := b.guest(ctx, deep, "ticker scatter /dev/%s %d 256 %d", layered, gib, i); err != nil {
			return err
		}
	}
	for i := range plainDisks {
		if err := take(); err != nil {
			return err
		}
		kind := []string{"sequential", "random"}[i%2]
		if err := b.writes(ctx, kind, plainDisk(i), i%4 < 2); err != nil {
			return err
		}
		if err := b.drop(ctx, points[0]); err != nil {
			return err
		}
		points = points[1:]
	}
	return b.kept(ctx)
}

// writes measures one kind of writing on the disk with layers and on a plain one.
func (b *bench) writes(ctx context.Context, kind, plain string, first bool) error {
	disks := []string{layered, plain}
	if !first {
		disks = []string{plain, layered}
	}
	names := map[string]string{layered: "layers/eight/", plain: "layers/none/"}
	for _, disk := range disks {
		if err := b.throughput(ctx, names[disk]+kind+"-fresh", kind, disk, gib); err != nil {
			return err
		}
	}
	for _, disk := range disks {
		b.seed++
		if _, err := b.guest(ctx, deep, "ticker fill /dev/%s 0 %d %d", disk, rewriteBytes, b.seed); err != nil {
			return err
		}
	}
	for range 2 {
		for _, disk := range disks {
			if err := b.throughput(ctx, names[disk]+kind+"-again", kind, disk, rewriteBytes); err != nil {
				return err
			}
		}
	}
	return nil
}

// throughput records how many MiB a second the guest can write.
func (b *bench) throughput(ctx context.Context, name, kind, disk string, bytes int64) error {
	out, err := b.guest(ctx, deep, "ticker write %s /dev/%s %d 1.5", kind, disk, bytes)
	if err != nil {
		return err
	}
	rate, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
	if err != nil {
		return err
	}
	return b.record(name, rate/mib)
}

// kept compares what a point keeps on the host with what the guest changed, in
// steps of 4 KiB at random places of a big disk.
func (b *bench) kept(ctx context.Context) error {
	for range 2 {
		if _, err := b.backup(ctx, deep, backstay.SnapshotTier); err != nil {
			return err
		}
		b.seed++
		out, err := b.guest(ctx, deep, "ticker scatter /dev/%s %d %d %d", wide, 64*gib, scatteredWrites, b.seed)
		if err != nil {
			return err
		}
		changed, err := strconv.ParseFloat(strings.TrimSpace(out), 64)
		if err != nil {
			return err
		}
		held, err := b.active(ctx, deep, wide)
		if err != nil {
			return err
		}
		// The next point freezes it; nothing is written to it any more.
		if _, err := b.backup(ctx, deep, backstay.SnapshotTier); err != nil {
			return err
		}
		var stat syscall.Stat_t
		if err := syscall.Stat(held, &stat); err != nil {
			return err
		}
		err = errors.Join(b.record("layers/kept", float64(stat.Blocks*512)), b.record("layers/changed", changed*4096))
		if err != nil {
			return err
		}
	}
	return nil
}

// active is the file that a disk of a VM writes to.
func (b *bench) active(ctx context.Context, vm, target string) (string, error) {
	disks, err := b.host.Disks(ctx, vm)
	if err != nil {
		return "", err
	}
	for _, d := range disks {
		if d.Target == target {
			path := b.host.Outside(d.Path)
			_, err := os.Stat(path)
			return path, err
		}
	}
	return "", fmt.Errorf("VM %s has no disk %s on %s", vm, target, filepath.Base(b.world.Dir))
}
