package raw

import (
	"errors"
	"fmt"
	"os"
	"sync/atomic"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/direct"
)

// behind is how much is written before the kernel is asked to start with it, in
// bytes: large enough that neighbours are written together.
const behind = 32 << 20

// Target is a raw image that is being made. WriteAt may be called concurrently.
// What is never written are zeros, as holes of the file.
type Target struct {
	file    *os.File
	writer  *direct.Writer
	pending atomic.Int64 // bytes written since writeback was last started
}

// Create makes a new raw image of the given size in bytes, mode 0600. It is an
// error if the file exists (I8).
func Create(path string, size int64) (*Target, error) {
	f, err := os.OpenFile(path, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, fmt.Errorf("create raw image: %w", err)
	}
	if err := f.Truncate(size); err != nil {
		return nil, errors.Join(fmt.Errorf("create raw image: %w", err), f.Close(), os.Remove(path))
	}
	return &Target{file: f, writer: direct.NewWriter(f)}, nil
}

// WriteAt writes all of b or fails. It is durable after Sync. Large stretches go
// past the page cache. Of the rest the kernel is told every few MiB to start
// writing, so that Sync does not find everything still to be done.
func (t *Target) WriteAt(b []byte, offset int64) (int, error) {
	n, err := t.writer.WriteAt(b, offset)
	if t.pending.Add(int64(n)) >= behind {
		t.pending.Store(0)
		t.start()
	}
	return n, err
}

// start is advice: a kernel that does not take it writes later, in Sync, which
// is where errors of writing are told.
func (t *Target) start() {
	conn, err := t.file.SyscallConn()
	if err != nil {
		return
	}
	_ = conn.Control(func(fd uintptr) { _ = unix.SyncFileRange(int(fd), 0, 0, unix.SYNC_FILE_RANGE_WRITE) })
}

// Sync makes everything that was written durable.
func (t *Target) Sync() error { return t.file.Sync() }

// Close closes the file, without a Sync.
func (t *Target) Close() error { return errors.Join(t.writer.Close(), t.file.Close()) }
