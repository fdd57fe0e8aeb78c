package recover

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync/atomic"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

// converter is the program that writes qcow2: formats are QEMU's own business.
const converter = "qemu-img"

// findConverter refuses qcow2 where nobody can write it.
func findConverter() (string, error) {
	path, err := exec.LookPath(converter)
	if err != nil {
		return "", backstay.Errorf(backstay.CodePreflight, "disks cannot be written as qcow2 here").
			Becausef("%s is not installed", converter).Do("say --format raw, or install %s (Debian: qemu-utils)", converter)
	}
	return path, nil
}

// counted is an image that tells how much is read of it.
type counted struct {
	tier.Image
	read func(int)
}

func (c counted) ReadAt(b []byte, offset int64) (int, error) {
	n, err := c.Image.ReadAt(b, offset)
	c.read(n)
	return n, err
}

// restoreQcow2 is RestoreDisk for a qcow2 file: the converter reads the disk from
// us over a socket that only this user can connect to.
func restoreQcow2(ctx context.Context, image tier.Image, path string, o DiskOptions) (DiskResult, error) {
	program, err := findConverter()
	if err != nil {
		return DiskResult{}, err
	}
	if err := free(path); err != nil {
		return DiskResult{}, err
	}
	_ = os.Remove(path + partial) // of an earlier attempt
	var result DiskResult
	run := func(phase string, args ...string) error {
		return overNBD(ctx, image, func(ctx context.Context, url string, read *atomic.Int64) error {
			defer func() { result.Bytes = max(result.Bytes, read.Load()) }()
			for i := range args {
				args[i] = strings.ReplaceAll(args[i], "{disk}", url)
			}
			return execute(ctx, program, args...)
		}, func(n int) {
			if o.Progress != nil {
				o.Progress(phase, int64(n))
			}
		})
	}
	err = run(PhaseWrite, "convert", "-f", "raw", "-O", "qcow2", "-m", "8", "-W", "{disk}", path+partial)
	if err == nil {
		err = ours(path + partial)
	}
	if err == nil && o.Verify {
		if err = durable.DropCache(path + partial); err == nil {
			err = run(PhaseVerify, "compare", "-f", "raw", "-F", "qcow2", "{disk}", path+partial)
		}
	}
	if err == nil {
		err = finish(path)
	}
	if err != nil {
		_ = os.Remove(path + partial)
		return DiskResult{}, diskError(path, err)
	}
	result.Verified = o.Verify
	return result, nil
}

// overNBD serves an image while fn runs. What kept the image from being read is
// worth more than what the program says of it.
func overNBD(ctx context.Context, image tier.Image, fn func(ctx context.Context, url string, read *atomic.Int64) error, progress func(int)) error {
	dir, err := os.MkdirTemp("", "backstay-recover-")
	if err != nil {
		return fmt.Errorf("make a folder for a socket: %w", err)
	}
	defer func() { _ = os.RemoveAll(dir) }()
	socket := filepath.Join(dir, "s")
	l, err := nbd.ListenUnix(socket)
	if err != nil {
		return err
	}
	serving, stop := context.WithCancel(ctx)
	defer stop()
	var read atomic.Int64
	var failed atomic.Pointer[error]
	source := counted{image, func(n int) { read.Add(int64(n)); progress(n) }}
	ended := make(chan error, 1)
	go func() {
		ended <- nbd.Serve(serving, l, export(source, "disk", func(err error) { failed.CompareAndSwap(nil, &err) }))
	}()
	err = fn(ctx, "nbd+unix:///disk?socket="+socket, &read)
	stop()
	err = errors.Join(err, <-ended)
	if first := failed.Load(); first != nil && err != nil {
		return *first
	}
	if ctx.Err() != nil {
		return ctx.Err()
	}
	return err
}

// execute runs a program whose last words say what went wrong.
func execute(ctx context.Context, program string, args ...string) error {
	cmd := exec.CommandContext(ctx, program, args...)
	var said bytes.Buffer
	cmd.Stdout, cmd.Stderr = &said, &said
	if err := cmd.Run(); err != nil {
		lines := strings.Split(strings.TrimSpace(said.String()), "\n")
		return fmt.Errorf("%s %s: %w: %s", filepath.Base(program), args[0], err, lines[len(lines)-1])
	}
	return nil
}

// ours syncs a file that another program wrote, and makes it this user's alone.
func ours(path string) error {
	f, err := os.OpenFile(path, os.O_RDWR, 0)
	if err != nil {
		return err
	}
	return errors.Join(f.Chmod(0o600), f.Sync(), f.Close())
}
