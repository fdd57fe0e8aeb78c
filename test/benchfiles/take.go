package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
)

// smalls measures what a folder and one file of 1 MiB cost a user who knows where
// it is, in seconds and in bytes that are read from the vault, beside the whole disk.
func (b *bench) smalls(ctx context.Context) error {
	for range b.o.rounds {
		if err := errors.Join(b.fresh(ctx), b.world.CountGets()); err != nil {
			return err
		}
		err := b.measured("small/seconds", func() error {
			return errors.Join(b.ls(ctx), b.take(ctx, oneFile))
		})
		if err := errors.Join(err, b.gets("small/bytes")); err != nil {
			return err
		}
		if err := b.end(ctx); err != nil {
			return err
		}
	}
	if err := errors.Join(b.fresh(ctx), b.world.CountGets()); err != nil {
		return err
	}
	to := sandbox.Images + "/whole"
	err := b.measured("small/whole-seconds", func() error {
		return b.backstay(ctx, &backstay.Job{}, "restore", "disks", b.point, "--to", to, "--tier", "vault")
	})
	return errors.Join(err, b.gets("small/whole-bytes"), os.RemoveAll(b.host.Outside(to)))
}

// gets records what was read from the vault since it was counted.
func (b *bench) gets(name string) error {
	requests, size, err := b.world.Gets()
	if err != nil {
		return err
	}
	return errors.Join(b.record(name, float64(size)), b.record(name+"-requests", float64(requests)))
}

// take takes one file into the scratch folder, and removes it.
func (b *bench) take(ctx context.Context, path string) error {
	err := b.backstay(ctx, nil, "files", "get", b.point, volume+":"+path, "--to", b.scratch)
	return errors.Join(err, os.Remove(filepath.Join(b.scratch, filepath.Base(path))))
}

// larges measures one large file that was read before: in a session, and in a
// guestfish that stays. Both write it to the same folder.
func (b *bench) larges(ctx context.Context) error {
	p, err := b.listen(ctx)
	if err != nil {
		return err
	}
	defer p.exit(ctx)
	to := filepath.Join(b.scratch, "theirs")
	theirs := func() error { return p.do(ctx, "download", largeFile, to) }
	ours := func() error { return b.take(ctx, largeFile) }
	if err := errors.Join(theirs(), ours()); err != nil {
		return err
	}
	for range b.o.rounds {
		if err := errors.Join(b.measured("large/libguestfs", theirs), b.measured("large/ours", ours)); err != nil {
			return err
		}
	}
	return errors.Join(b.end(ctx), os.Remove(to))
}

// tars measures a folder of many small files as tar, once, as it takes long. The
// session and guestfish are there already.
func (b *bench) tars(ctx context.Context) error {
	p, err := b.listen(ctx)
	if err != nil {
		return err
	}
	defer p.exit(ctx)
	to := filepath.Join(b.scratch, "many.tar")
	if err := b.ls(ctx); err != nil {
		return err
	}
	err = errors.Join(
		b.measured("tar/libguestfs", func() error { return p.do(ctx, "tar-out", manyFiles, to) }),
		os.Remove(to),
		b.measured("tar/ours", func() error {
			return b.backstay(ctx, nil, "files", "get", b.point, volume+":"+manyFiles, "--tar", to)
		}),
		b.complete(ctx, to),
	)
	return errors.Join(err, b.end(ctx), os.Remove(to))
}

// complete sees that an archive has every small file, or it would be quick for
// nothing.
func (b *bench) complete(ctx context.Context, archive string) error {
	out, err := exec.CommandContext(ctx, "tar", "-tf", archive).Output()
	if err != nil {
		return fmt.Errorf("read the archive: %w", err)
	}
	if n := bytes.Count(out, []byte(".txt\n")); n != b.o.many {
		return fmt.Errorf("the archive has %d of %d files", n, b.o.many)
	}
	return nil
}
