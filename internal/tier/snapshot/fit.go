package snapshot

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"syscall"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
)

// The steps in which files take room when something is written to them where
// they held nothing: that of a file system, and at most that of a qcow2 image.
const (
	rawStep   = 4 << 10
	qcow2Step = 64 << 10
)

// mergeSlack is what a merge may need beside the data: the image's tables.
const mergeSlack = 4 << 20

// checkFit sees that a merge finds the room that it needs where the lower layer
// lies: the upper one is removed only when all of it is there. Without it the
// guest would see the file system full (I12).
func (t *Tier) checkFit(ctx context.Context, into, child *Layer) error {
	st, err := os.Stat(into.File)
	if err != nil || !st.Mode().IsRegular() {
		return nil // a device has its room already; whoever opens it misses the file
	}
	left, err := roomIn(filepath.Dir(into.File))
	if err != nil {
		return err
	}
	info, err := t.images.Info(ctx, child.File)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("measure layer %s: %w", child.File, err)
	}
	if info.DiskSize*(qcow2Step/rawStep)+mergeSlack <= left {
		return nil // however it is scattered
	}
	need, err := t.needs(ctx, into, child, info.DiskSize)
	if err != nil {
		return err
	}
	if need = min(need, canGrow(into, st)); need <= left {
		return nil
	}
	return backstay.Errorf(backstay.CodeNoSpace, "there is too little room to merge %s into %s", child.File, into.File).
		Becausef("it may need %d MiB, and %d MiB are left", need>>20, left>>20).
		Do("free space there; the layers stay as they are until then")
}

// canGrow bounds by how much a layer's file can still grow: to its content, and a
// qcow2 file to its tables. Into a raw file of which all is allocated is merged
// also when the file system is full.
func canGrow(l *Layer, st os.FileInfo) int64 {
	sys, ok := st.Sys().(*syscall.Stat_t)
	if !ok || l.Size == 0 {
		return math.MaxInt64
	}
	most := l.Size
	if l.Format == "qcow2" {
		most += l.Size/1000 + mergeSlack
	}
	return max(0, most-sys.Blocks*512)
}

// roomIn returns the bytes that are left in a folder's file system.
func roomIn(folder string) (int64, error) {
	var room unix.Statfs_t
	if err := statfs(folder, &room); err != nil {
		return 0, fmt.Errorf("look for room in %s: %w", folder, err)
	}
	return int64(room.Bavail) * room.Bsize, nil
}

// needs bounds from above the bytes by which a merge makes the lower layer grow.
func (t *Tier) needs(ctx context.Context, into, child *Layer, most int64) (int64, error) {
	upper, err := t.images.Allocated(ctx, imageOf(child))
	if err != nil {
		// The VM writes to it: nobody can tell what it holds, only how much.
		return most + mergeSlack, nil
	}
	step := int64(rawStep)
	var lower []backstay.Range
	if into.Format == "qcow2" {
		step = qcow2Step
		if lower, err = t.images.Allocated(ctx, imageOf(into)); err != nil {
			lower = nil
		}
	}
	var need int64
	for _, r := range missing(stepped(upper, step), lower) {
		need += r.Length
	}
	return need + mergeSlack, nil
}

// stepped rounds ranges outwards.
func stepped(ranges []backstay.Range, step int64) []backstay.Range {
	var out []backstay.Range
	for _, r := range ranges {
		from, to := r.Offset/step*step, (r.End()+step-1)/step*step
		out = append(out, backstay.Range{Offset: from, Length: to - from})
	}
	return union(out)
}

// missing returns what of the upper ranges the lower ones do not cover; both are
// in order and without overlap.
func missing(upper, lower []backstay.Range) []backstay.Range {
	var out []backstay.Range
	for _, u := range upper {
		at := u.Offset
		for len(lower) > 0 && lower[0].End() <= at {
			lower = lower[1:]
		}
		for _, l := range lower {
			if l.Offset >= u.End() {
				break
			}
			if l.Offset > at {
				out = append(out, backstay.Range{Offset: at, Length: l.Offset - at})
			}
			at = max(at, l.End())
		}
		if at < u.End() {
			out = append(out, backstay.Range{Offset: at, Length: u.End() - at})
		}
	}
	return out
}
