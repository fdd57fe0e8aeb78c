package recover

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"runtime"
	"sync/atomic"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/raw"
)

// partial is what the name of a file ends with until it is whole.
const partial = ".partial"

// DiskOptions describe how a disk is written. The zero value is right.
type DiskOptions struct {
	// Workers is how many goroutines decode and write; 0 for what fits the machine.
	Workers int
	// Verify reads the file back, from the storage and not from memory, and
	// compares it with what the vault authenticated.
	Verify bool
	// Progress is called with the bytes that were written, or read back, since
	// the call before; from several goroutines at a time.
	Progress func(phase string, bytes int64)
}

// The phases of Progress.
const (
	PhaseWrite  = "write"
	PhaseVerify = "verify"
)

// DiskResult says what was written.
type DiskResult struct {
	Bytes    int64 // of data, without holes
	Verified bool
}

// RestoreDisk writes a disk to a sparse raw file of mode 0600. Under its name the
// file is whole and durable, or not there: until then it is path.partial, which
// an earlier attempt may have left and which is removed if this one fails. A path
// that exists is CodeExists, and is not touched.
func RestoreDisk(ctx context.Context, image tier.Image, path string, o DiskOptions) (DiskResult, error) {
	if err := free(path); err != nil {
		return DiskResult{}, err
	}
	if o.Workers <= 0 {
		o.Workers = max(4, 2*runtime.GOMAXPROCS(0))
	}
	w := &diskWriter{image: image, path: path, o: o}
	err := w.write(ctx)
	if err == nil && o.Verify {
		err = w.verify(ctx)
	}
	if err == nil {
		err = finish(path)
	}
	if err != nil {
		_ = os.Remove(path + partial)
		return DiskResult{}, diskError(path, err)
	}
	return DiskResult{Bytes: w.bytes.Load(), Verified: o.Verify}, nil
}

// diskError says what a failed write means to people; what the vault said of its
// own objects stays as it is.
func diskError(path string, err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) || errors.Is(err, context.Canceled) {
		return fmt.Errorf("write %s: %w", path, err)
	}
	if errors.Is(err, unix.ENOSPC) || errors.Is(err, unix.EDQUOT) {
		return backstay.Errorf(backstay.CodeNoSpace, "%s has no room for the disk", filepath.Dir(path)).Because(err).
			Do("free space there, or choose another folder; nothing half written was kept under the disk's name")
	}
	return backstay.Errorf(backstay.CodeRestoreFailed, "%s was not written", path).Because(err)
}

// diskWriter is one disk on its way from a vault into a file.
type diskWriter struct {
	image tier.Image
	path  string
	o     DiskOptions
	sums  *content.Sums // of what the vault gave; nil if nobody wants to compare
	bytes atomic.Int64
}

func (w *diskWriter) advanced(phase string, n int) {
	if w.o.Progress != nil {
		w.o.Progress(phase, int64(n))
	}
}

// write makes the partial file durable and whole. What is not written stays a hole.
func (w *diskWriter) write(ctx context.Context) (err error) {
	if w.o.Verify {
		if w.sums, err = content.NewSums(w.image.Size()); err != nil {
			return err
		}
	}
	if err := os.Remove(w.path + partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := raw.Create(w.path+partial, w.image.Size())
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, f.Close()) }()
	err = content.Each(ctx, w.image, w.o.Workers, func(offset int64, data []byte) error {
		if w.sums != nil {
			if err := w.sums.Add(offset, data); err != nil {
				return err
			}
		}
		if _, err := f.WriteAt(data, offset); err != nil {
			return err
		}
		w.bytes.Add(int64(len(data)))
		w.advanced(PhaseWrite, len(data))
		return nil
	})
	if err != nil {
		return err
	}
	return f.Sync()
}

// verify reads the partial file back and compares (I4).
func (w *diskWriter) verify(ctx context.Context) error {
	if err := durable.DropCache(w.path + partial); err != nil {
		return err
	}
	written, err := w.sums.Again()
	if err != nil {
		return err
	}
	file, err := raw.Open(w.path + partial)
	if err != nil {
		return err
	}
	defer func() { _ = file.Close() }()
	if file.Size() != w.image.Size() {
		return fmt.Errorf("it has %d bytes and not %d", file.Size(), w.image.Size())
	}
	err = content.Each(ctx, file, w.o.Workers, func(offset int64, data []byte) error {
		w.advanced(PhaseVerify, len(data))
		return written.Add(offset, data)
	})
	if err != nil {
		return err
	}
	if at, same := w.sums.Equal(written); !same {
		return fmt.Errorf("read back, it differs from the point in the MiB at byte %d: its storage does not keep what is written", at)
	}
	return nil
}

// free makes sure that a name is not taken.
func free(path string) error {
	_, err := os.Lstat(path)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return nil
	case err != nil:
		return backstay.Errorf(backstay.CodeRestoreFailed, "%s cannot be looked at", path).Because(err)
	}
	return taken(path)
}

func taken(path string) error {
	return backstay.Errorf(backstay.CodeExists, "%s is there already", path).
		Becausef("recover replaces nothing").Do("choose another folder, or move the file away")
}

// finish gives a partial file, which is durable, its name. It replaces nothing.
func finish(path string) error {
	err := unix.Renameat2(unix.AT_FDCWD, path+partial, unix.AT_FDCWD, path, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) { // a file system without it
		if err = os.Link(path+partial, path); err == nil {
			err = os.Remove(path + partial)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return taken(path)
	}
	if err != nil {
		return err
	}
	return durable.Sync(filepath.Dir(path))
}

// writeFile writes a small file of mode 0600 as RestoreDisk writes disks. A file
// with the same content already is as good.
func writeFile(path string, data []byte) error {
	if there, err := os.ReadFile(path); err == nil && string(there) == string(data) {
		return nil
	}
	if err := free(path); err != nil {
		return err
	}
	if err := os.Remove(path + partial); err != nil && !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	f, err := os.OpenFile(path+partial, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	_, err = f.Write(data)
	if err := errors.Join(err, f.Sync(), f.Close()); err != nil {
		return errors.Join(err, os.Remove(path+partial))
	}
	return finish(path)
}
