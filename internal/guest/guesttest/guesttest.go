// Package guesttest makes what tests of item-level restore need: disk images of
// every file system and stack of volumes with known files in them (see recipes and
// trees), servers that serve them, and small machines. Its images are made once and
// kept in a cache.
package guesttest

import (
	"bufio"
	"bytes"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"testing"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/guesttest/recipes"
	"github.com/backstay/backstay/internal/guest/image"
)

// Images returns the files of the disks of a recipe. They must not be changed.
func Images(t testing.TB, recipe string) []string {
	t.Helper()
	dir, err := Dir(t.Context(), recipe)
	if err != nil {
		t.Fatal(err)
	}
	r, _ := recipes.Find(recipe)
	var paths []string
	for i := range r.Disks {
		paths = append(paths, filepath.Join(dir, fmt.Sprint(i)))
	}
	return paths
}

// Pool returns a pool of small machines of the source tree, which ends with the
// test.
func Pool(t testing.TB, o guest.Options) *guest.Pool {
	t.Helper()
	parts, err := image.Ensure(t.Context(), "")
	if err != nil {
		t.Fatal(err)
	}
	if o.Parts == "" {
		o.Parts = parts
	}
	if o.Run == "" {
		o.Run = t.TempDir()
	}
	p, err := guest.NewPool(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	return p
}

// Serve serves an image read-only and returns it as a disk to attach. The server
// ends with the test.
func Serve(t testing.TB, target backstay.DiskTarget, path string) guest.Disk {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	// A socket's path may have 107 bytes only, which a test's folder may exceed.
	dir, err := os.MkdirTemp("", "nbd-")
	if err != nil {
		t.Fatal(err)
	}
	socket := filepath.Join(dir, "s")
	cmd := exec.Command("qemu-nbd", "-r", "-t", "-e", "8", "-f", "raw", "-x", "disk", "-k", socket, path)
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		_ = cmd.Process.Kill()
		_ = cmd.Wait()
		_ = os.RemoveAll(dir)
	})
	for range 1000 {
		// The socket is there a moment before it is listened to.
		if conn, err := net.Dial("unix", socket); err == nil {
			conn.Close()
			return guest.Disk{Target: target, Socket: socket, Export: "disk", Size: info.Size()}
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatal("qemu-nbd does not listen")
	return guest.Disk{}
}

// Attach plugs the disks of a recipe into a machine, as targets in their order.
func Attach(t testing.TB, m *guest.Machine, recipe string, targets ...backstay.DiskTarget) {
	t.Helper()
	images := Images(t, recipe)
	for i, target := range targets {
		if err := m.Attach(t.Context(), Serve(t, target, images[i])); err != nil {
			t.Fatalf("attach %s of %s: %v", target, recipe, err)
		}
	}
}

// Hash returns a hash of an image, to see that nothing wrote to it: of the blocks that
// are not zeros and where they lie. Which others are holes is the file system's
// business, and changes as they are read.
func Hash(t testing.TB, path string) string {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	h := sha256.New()
	for at := int64(0); ; {
		data, err := file.Seek(at, unix.SEEK_DATA)
		if errors.Is(err, unix.ENXIO) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if at, err = file.Seek(data, unix.SEEK_HOLE); err != nil {
			t.Fatal(err)
		}
		if err := hashBlocks(h, file, data, at); err != nil {
			t.Fatal(err)
		}
	}
	return hex.EncodeToString(h.Sum(nil))
}

// hashBlocks hashes what is not zeros in [from, to), both on bounds of blocks but for
// the end of the file.
func hashBlocks(h io.Writer, file *os.File, from, to int64) error {
	const size = 4096
	var zeros, block [size]byte
	content := bufio.NewReaderSize(io.NewSectionReader(file, from, to-from), 1<<20)
	for at := from; at < to; at += size {
		n, err := io.ReadFull(content, block[:min(size, to-at)])
		if err != nil {
			return err
		}
		if !bytes.Equal(block[:n], zeros[:n]) {
			fmt.Fprintln(h, at, n)
			_, _ = h.Write(block[:n])
		}
	}
	return nil
}
