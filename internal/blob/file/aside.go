package file

import (
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/blob"
)

// createAside makes a file in the folder for unfinished objects and holds a lock
// on it for as long as it is open: that is how sweepAside tells a file that is
// being written from one whose writer died, without looking at times (I6).
func createAside(r *os.Root) (*os.File, string, error) {
	if err := r.MkdirAll(aside, 0o700); err != nil {
		return nil, "", err
	}
	for {
		name := aside + "/" + rand.Text()
		f, err := r.OpenFile(name, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
		if err != nil {
			return nil, "", err
		}
		if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
			return nil, "", errors.Join(err, r.Remove(name), f.Close())
		}
		// A sweep may have taken the file for a dead one before it was locked.
		var st unix.Stat_t
		if err := unix.Fstat(int(f.Fd()), &st); err != nil {
			return nil, "", errors.Join(err, f.Close())
		}
		if st.Nlink > 0 {
			return f, name, nil
		}
		f.Close()
	}
}

// sweepAside removes unfinished files that nobody has locked. It is a courtesy:
// what it cannot remove it leaves, and such files are never listed.
func sweepAside(r *os.Root) {
	d, err := r.Open(aside)
	if err != nil {
		return
	}
	defer d.Close()
	entries, _ := d.ReadDir(-1)
	for _, e := range entries {
		f, err := r.Open(aside + "/" + e.Name())
		if err != nil {
			continue
		}
		if unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) == nil {
			_ = r.Remove(aside + "/" + e.Name())
		}
		f.Close()
	}
}

// moveNew moves a file to a name that must be free, in one step. Where the file
// system cannot rename without replacing, a hard link does the same.
func moveNew(r *os.Root, from, to string) error {
	d, err := r.Open(".")
	if err != nil {
		return err
	}
	defer d.Close()
	err = unix.Renameat2(int(d.Fd()), from, int(d.Fd()), to, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) || errors.Is(err, unix.EOPNOTSUPP) {
		if err = r.Link(from, to); err == nil {
			err = r.Remove(from)
		}
	}
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("%w: %w", blob.ErrExist, err)
	}
	return err
}

// syncIn makes a folder's entries durable.
func syncIn(r *os.Root, dir string) error {
	d, err := r.Open(dir)
	if err != nil {
		return err
	}
	return errors.Join(d.Sync(), d.Close())
}
