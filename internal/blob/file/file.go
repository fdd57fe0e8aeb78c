// Package file is a storage unit in a directory.
//
// An object is one file below the root, written aside, synced, moved into place
// without replacing anything, and then made durable by syncing its folders. The
// root holds a marker file from the day it was made a unit: without the marker
// the unit is away, because the folder in which a disk is mounted must never
// look like an empty unit (I5, I6).
//
// It is not for file systems without atomic no-replace renames or hard links:
// there Put fails, it does not guess.
package file

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path"
	"path/filepath"
	"slices"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/direct"
	"github.com/backstay/backstay/internal/durable"
)

const (
	// marker is the file that makes a directory a storage unit.
	marker = ".backstay-unit"
	// aside is the folder for files that are being written. Its name starts with
	// a dot, so it can never be an object's.
	aside = ".backstay-new"
)

// ErrNotEmpty: a directory with other files is not made a storage unit.
var ErrNotEmpty = errors.New("the folder is not empty")

// Store is a storage unit in a directory. Several processes may use one
// directory at the same time.
type Store struct {
	root  string
	signs []string // of which one must be in the root

	sweep  sync.Once
	mu     sync.Mutex
	synced map[string]bool // folders known to be durable; guarded by mu
}

// New returns the unit at an absolute path. Nothing is touched: that the unit
// is there is checked by every call.
func New(root string) *Store { return Holding(root) }

// Holding is New for whoever only reads: a directory without the marker, but with
// one of these files or folders, is the unit too. It may be a copy that somebody
// made without the files whose names begin with a dot.
func Holding(root string, signs ...string) *Store {
	return &Store{root: filepath.Clean(root), signs: append([]string{marker}, signs...), synced: map[string]bool{}}
}

// Init makes a directory a storage unit; it and its parents are created as
// needed, mode 0700. A directory that is one already is left as it is; one that
// holds other files is refused.
func Init(root string) error {
	if !filepath.IsAbs(root) {
		return fmt.Errorf("init storage unit %s: want an absolute path", root)
	}
	if err := os.MkdirAll(root, 0o700); err != nil {
		return fmt.Errorf("init storage unit: %w", classify(err))
	}
	name := filepath.Join(root, marker)
	if _, err := os.Stat(name); err == nil {
		return nil
	}
	entries, err := os.ReadDir(root)
	if err != nil {
		return fmt.Errorf("init storage unit: %w", classify(err))
	}
	for _, e := range entries {
		if e.Name() != "lost+found" && !strings.HasPrefix(e.Name(), ".") {
			return fmt.Errorf("init storage unit %s: %w: it holds %s", root, ErrNotEmpty, e.Name())
		}
	}
	f, err := os.OpenFile(name, os.O_CREATE|os.O_WRONLY|os.O_EXCL, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("init storage unit: %w", classify(err))
	}
	_, err = f.WriteString("{\"unit\":\"backstay storage unit\",\"format\":1}\n")
	if err = errors.Join(err, f.Sync(), f.Close()); err != nil {
		return fmt.Errorf("init storage unit: %w", classify(err))
	}
	for dir := root; ; dir = filepath.Dir(dir) {
		if err := durable.Sync(dir); err != nil && dir == root {
			return fmt.Errorf("init storage unit: %w", err)
		}
		if dir == filepath.Dir(dir) {
			return nil
		}
	}
}

// IsUnit tells whether a directory has the marker of a storage unit.
func IsUnit(root string) bool {
	_, err := os.Stat(filepath.Join(root, marker))
	return err == nil
}

// open returns a handle of the root that stays the same directory whatever is
// mounted or unmounted meanwhile, once the marker was seen through it.
func (s *Store) open() (*os.Root, error) {
	r, err := os.OpenRoot(s.root)
	if err != nil {
		if errors.Is(err, fs.ErrNotExist) || errors.Is(err, unix.ENOTDIR) {
			return nil, fmt.Errorf("storage unit %s is not there: %w", s.root, blob.ErrAway)
		}
		return nil, fmt.Errorf("open storage unit: %w: %w", blob.ErrAway, err)
	}
	if !slices.ContainsFunc(s.signs, func(name string) bool { _, err := r.Stat(name); return err == nil }) {
		r.Close()
		return nil, fmt.Errorf("storage unit %s has no marker %s (is its disk mounted?): %w", s.root, marker, blob.ErrAway)
	}
	return r, nil
}

// classify adds the port's error to one of the operating system's.
func classify(err error) error {
	for _, c := range []struct{ sys, port error }{
		{unix.EROFS, blob.ErrReadOnly}, {unix.EACCES, blob.ErrReadOnly}, {unix.EPERM, blob.ErrReadOnly},
		{unix.ENOSPC, blob.ErrFull}, {unix.EDQUOT, blob.ErrFull}, {unix.EFBIG, blob.ErrFull},
		{unix.EIO, blob.ErrAway}, {unix.ESTALE, blob.ErrAway}, {unix.ENOTCONN, blob.ErrAway},
		{unix.ETIMEDOUT, blob.ErrAway}, {unix.EHOSTDOWN, blob.ErrAway},
	} {
		if errors.Is(err, c.sys) {
			return fmt.Errorf("%w: %w", c.port, err)
		}
	}
	return err
}

// Put writes an object: aside, synced, moved without replacing, folders synced.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	s.sweep.Do(func() { sweepAside(r) })
	if _, err := r.Lstat(name); err == nil {
		err = s.exists(r, name)
		return fmt.Errorf("put %s in %s: %w", name, s.root, classify(err))
	}
	err = s.put(r, name, data)
	if errors.Is(err, blob.ErrExist) {
		err = s.exists(r, name)
	}
	if err != nil {
		return fmt.Errorf("put %s in %s: %w", name, s.root, classify(err))
	}
	return nil
}

// exists is the answer to a put of a name that is taken. Whoever put the object
// may have been cut off when it was in place and not durable yet; its content was
// synced before, its folders are now, because callers go on from what is there.
func (s *Store) exists(r *os.Root, name string) error {
	if err := errors.Join(s.folders(r, path.Dir(name)), syncIn(r, path.Dir(name))); err != nil {
		return err
	}
	return blob.ErrExist
}

func (s *Store) put(r *os.Root, name string, data []byte) error {
	if err := s.folders(r, path.Dir(name)); err != nil {
		return err
	}
	f, temp, err := createAside(r)
	if err != nil {
		return err
	}
	defer f.Close()
	if err := direct.WriteAt(f, data, 0); err != nil {
		return errors.Join(err, r.Remove(temp))
	}
	if err := f.Sync(); err != nil {
		return errors.Join(err, r.Remove(temp))
	}
	if err := moveNew(r, temp, name); err != nil {
		return errors.Join(err, r.Remove(temp))
	}
	return syncIn(r, path.Dir(name))
}

// folders makes the folder of an object, and makes it durable once a process:
// somebody else may have made it and died before it was.
func (s *Store) folders(r *os.Root, dir string) error {
	s.mu.Lock()
	known := s.synced[dir]
	s.mu.Unlock()
	if known {
		if _, err := r.Stat(dir); err == nil {
			return nil
		}
	}
	if err := r.MkdirAll(dir, 0o700); err != nil {
		return err
	}
	for parent := dir; parent != "."; {
		parent = path.Dir(parent)
		if err := syncIn(r, parent); err != nil {
			return err
		}
	}
	s.mu.Lock()
	s.synced[dir] = true
	s.mu.Unlock()
	return nil
}

// Get reads a range of an object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return nil, err
	}
	r, err := s.open()
	if err != nil {
		return nil, err
	}
	defer r.Close()
	f, err := r.Open(name)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", name, s.root, readError(err))
	}
	defer f.Close()
	info, err := f.Stat()
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", name, s.root, readError(err))
	}
	if !info.Mode().IsRegular() {
		return nil, fmt.Errorf("get %s from %s: not a file: %w", name, s.root, blob.ErrNotExist)
	}
	from, to, err := blob.CheckRange(info.Size(), offset, length)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", name, s.root, err)
	}
	data, err := direct.ReadAt(f, from, to-from)
	if err != nil {
		return nil, fmt.Errorf("get %s from %s: %w", name, s.root, readError(err))
	}
	return data, nil
}

// Stat describes an object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return blob.Info{}, err
	}
	r, err := s.open()
	if err != nil {
		return blob.Info{}, err
	}
	defer r.Close()
	info, err := r.Stat(name)
	if err != nil {
		return blob.Info{}, fmt.Errorf("stat %s in %s: %w", name, s.root, readError(err))
	}
	if !info.Mode().IsRegular() {
		return blob.Info{}, fmt.Errorf("stat %s in %s: not a file: %w", name, s.root, blob.ErrNotExist)
	}
	return blob.Info{Name: name, Size: info.Size()}, nil
}

// readError classifies what reading met. Not being allowed to read says nothing
// of the object (I5).
func readError(err error) error {
	switch {
	case errors.Is(err, fs.ErrNotExist), errors.Is(err, unix.ENOTDIR):
		return fmt.Errorf("%w: %w", blob.ErrNotExist, err)
	default:
		return fmt.Errorf("%w: %w", blob.ErrAway, err)
	}
}

// List walks the folders that can hold the prefix, in order of name.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	return s.list(ctx, r, listing{dir: ".", prefix: prefix, fn: fn})
}

type listing struct {
	dir, prefix string
	fn          func(blob.Info) error
}

func (s *Store) list(ctx context.Context, r *os.Root, l listing) error {
	entries, err := readDir(r, l.dir)
	if err != nil {
		return fmt.Errorf("list %s in %s: %w", l.dir, s.root, err)
	}
	for _, e := range entries {
		if err := ctx.Err(); err != nil {
			return err
		}
		name := path.Join(l.dir, e.Name())
		switch {
		case e.IsDir():
			if !strings.HasPrefix(name+"/", l.prefix) && !strings.HasPrefix(l.prefix, name+"/") {
				continue
			}
			if err := s.list(ctx, r, listing{dir: name, prefix: l.prefix, fn: l.fn}); err != nil {
				return err
			}
		case e.Type().IsRegular() && strings.HasPrefix(name, l.prefix):
			info, err := e.Info()
			if errors.Is(err, fs.ErrNotExist) {
				continue // deleted since
			}
			if err != nil {
				return fmt.Errorf("list %s in %s: %w", name, s.root, readError(err))
			}
			if err := l.fn(blob.Info{Name: name, Size: info.Size()}); err != nil {
				return err
			}
		}
	}
	return nil
}

// readDir returns the entries whose names an object can have, in the order of
// full names: a folder "a" sorts as "a/", behind "a.b".
func readDir(r *os.Root, dir string) ([]fs.DirEntry, error) {
	f, err := r.Open(dir)
	if errors.Is(err, fs.ErrNotExist) && dir != "." {
		return nil, nil // an empty folder that was removed since
	}
	if err != nil {
		return nil, readError(err)
	}
	defer f.Close()
	all, err := f.ReadDir(-1)
	if err != nil {
		return nil, fmt.Errorf("%w: %w", blob.ErrAway, err)
	}
	key := func(e fs.DirEntry) string {
		if e.IsDir() {
			return e.Name() + "/"
		}
		return e.Name()
	}
	entries := slices.DeleteFunc(all, func(e fs.DirEntry) bool { return blob.CheckName(e.Name()) != nil || e.Name() == "lost+found" })
	slices.SortFunc(entries, func(a, b fs.DirEntry) int { return strings.Compare(key(a), key(b)) })
	return entries, nil
}

// Delete removes an object and makes its absence durable.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	r, err := s.open()
	if err != nil {
		return err
	}
	defer r.Close()
	err = r.Remove(name)
	if errors.Is(err, fs.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("delete %s in %s: %w", name, s.root, classify(err))
	}
	return syncIn(r, path.Dir(name))
}

// Describe returns the URL, the device number of the file system and its free
// bytes for this process.
func (s *Store) Describe(ctx context.Context) (blob.Place, error) {
	r, err := s.open()
	if err != nil {
		return blob.Place{}, err
	}
	r.Close()
	var st unix.Stat_t
	if err := unix.Stat(s.root, &st); err != nil {
		return blob.Place{}, fmt.Errorf("describe %s: %w", s.root, readError(err))
	}
	var fsys unix.Statfs_t
	if err := unix.Statfs(s.root, &fsys); err != nil {
		return blob.Place{}, fmt.Errorf("describe %s: %w", s.root, readError(err))
	}
	return blob.Place{
		URL:       "file://" + s.root,
		Device:    fmt.Sprintf("%d:%d", unix.Major(uint64(st.Dev)), unix.Minor(uint64(st.Dev))),
		Available: int64(fsys.Bavail) * int64(fsys.Bsize),
	}, nil
}
