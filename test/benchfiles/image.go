package main

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
)

const (
	mib = 1 << 20
	gib = 1 << 30
)

// The image: a disk with a partition table and one file system, ext4, as
// installers make them, and what the sections take out of it.
const (
	partition = 1 * mib     // where the file system begins
	folder    = "/etc"      // is listed
	oneFile   = "/one.bin"  // of 1 MiB, is taken
	largeFile = "/big.bin"  // is read
	manyFiles = "/many"     // is taken as tar
	rest      = "/rest.bin" // is what a small file must not cost
	device    = "/dev/sda1" // libguestfs's name of the file system
	volume    = "vda1"      // backstay's
)

// perFolder is how many small files share a folder.
const perFolder = 1000

// makeImage writes the image, the same in each run.
func (b *bench) makeImage(ctx context.Context, path string) error {
	tree, err := os.MkdirTemp(filepath.Dir(path), "tree-")
	if err != nil {
		return err
	}
	defer os.RemoveAll(tree)
	if err := b.makeTree(tree); err != nil {
		return fmt.Errorf("make the files: %w", err)
	}
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		return err
	}
	if err := os.Truncate(path, b.o.size); err != nil {
		return err
	}
	table := exec.CommandContext(ctx, "sfdisk", "-q", path)
	table.Stdin = strings.NewReader(fmt.Sprintf("label: gpt\nstart=%d, size=%d\n", partition/512, (b.o.size-2*partition)/512))
	blocks := strconv.FormatInt((b.o.size-2*partition)/4096, 10)
	system := exec.CommandContext(ctx, "mke2fs", "-q", "-t", "ext4", "-b", "4096", "-L", "root", "-d", tree,
		"-E", fmt.Sprintf("offset=%d,lazy_itable_init=1,lazy_journal_init=1,nodiscard", partition), path, blocks)
	return errors.Join(output(table), output(system))
}

// output runs a command, with what it said in the error.
func output(cmd *exec.Cmd) error {
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("%s: %w: %s", strings.Join(cmd.Args, " "), err, strings.TrimSpace(string(out)))
	}
	return nil
}

func (b *bench) makeTree(root string) error {
	noise := rand.NewChaCha8([32]byte{6})
	write := func(name string, size int64) error {
		path := filepath.Join(root, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return err
		}
		f, err := os.Create(path)
		if err != nil {
			return err
		}
		piece := make([]byte, min(size, mib))
		for left := size; left > 0; left -= int64(len(piece)) {
			piece = piece[:min(left, int64(len(piece)))]
			_, _ = noise.Read(piece[:(len(piece)+1)/2]) // it never fails; the other half compresses
			if _, err := f.Write(piece); err != nil {
				return errors.Join(err, f.Close())
			}
		}
		return f.Close()
	}
	err := errors.Join(write(oneFile, mib), write(largeFile, b.o.large), write(rest, b.o.large))
	for i := range 200 {
		err = errors.Join(err, write(fmt.Sprintf("%s/file%03d.conf", folder, i), 1500))
	}
	sizes := rand.New(rand.NewPCG(6, 6))
	for i := range b.o.many {
		err = errors.Join(err, write(smallFile(i), 200+sizes.Int64N(3000)))
	}
	return err
}

func smallFile(i int) string {
	return fmt.Sprintf("%s/%03d/%06d.txt", manyFiles, i/perFolder, i)
}
