package index

import (
	"fmt"
	"io"
	"os"
	"path/filepath"
	"sync"
)

// disk is the folder in which a cache keeps its files. A cache in memory has one
// too, so that both are the same code.
type disk interface {
	// Create makes an empty file, also where there is one already.
	Create(name string) (file, error)
	// Open opens a file that exists, for reading and writing.
	Open(name string) (file, error)
	// Rename puts a file in the place of another.
	Rename(from, to string) error
	Remove(name string) error
	List() ([]string, error)
	// Sync makes names durable: what was created, renamed and removed.
	Sync() error
}

// file is one file of a disk.
type file interface {
	io.ReaderAt
	io.WriterAt
	io.Closer
	Size() (int64, error)
	// Sync makes the content durable, not the name.
	Sync() error
}

// folder is a disk in a file system.
type folder struct{ path string }

type osFile struct{ *os.File }

func (f osFile) Size() (int64, error) {
	info, err := f.Stat()
	if err != nil {
		return 0, err
	}
	return info.Size(), nil
}

func (d folder) open(name string, flags int) (file, error) {
	f, err := os.OpenFile(filepath.Join(d.path, name), flags, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

func (d folder) Create(name string) (file, error) {
	return d.open(name, os.O_RDWR|os.O_CREATE|os.O_TRUNC)
}
func (d folder) Open(name string) (file, error) { return d.open(name, os.O_RDWR) }
func (d folder) Remove(name string) error       { return os.Remove(filepath.Join(d.path, name)) }

func (d folder) Rename(from, to string) error {
	return os.Rename(filepath.Join(d.path, from), filepath.Join(d.path, to))
}

func (d folder) List() ([]string, error) {
	entries, err := os.ReadDir(d.path)
	if err != nil {
		return nil, err
	}
	names := make([]string, len(entries))
	for i, e := range entries {
		names[i] = e.Name()
	}
	return names, nil
}

func (d folder) Sync() error {
	f, err := os.Open(d.path)
	if err != nil {
		return err
	}
	err = f.Sync()
	if e := f.Close(); err == nil {
		err = e
	}
	return err
}

// memory is a disk that lives as long as the process.
type memory struct {
	mu    sync.Mutex
	files map[string]*memFile // guarded by mu
}

func newMemory() *memory { return &memory{files: map[string]*memFile{}} }

func (d *memory) Create(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f := &memFile{}
	d.files[name] = f
	return f, nil
}

func (d *memory) Open(name string) (file, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.files[name]
	if !ok {
		return nil, fmt.Errorf("open %s: %w", name, os.ErrNotExist)
	}
	return f, nil
}

func (d *memory) Rename(from, to string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	f, ok := d.files[from]
	if !ok {
		return fmt.Errorf("rename %s: %w", from, os.ErrNotExist)
	}
	delete(d.files, from)
	d.files[to] = f
	return nil
}

func (d *memory) Remove(name string) error {
	d.mu.Lock()
	defer d.mu.Unlock()
	delete(d.files, name)
	return nil
}

func (d *memory) List() ([]string, error) {
	d.mu.Lock()
	defer d.mu.Unlock()
	var names []string
	for name := range d.files {
		names = append(names, name)
	}
	return names, nil
}

func (d *memory) Sync() error { return nil }

// memFile is a file of a memory disk. It survives its removal as long as
// somebody has it open, as a real one does.
type memFile struct {
	mu   sync.RWMutex
	data []byte // guarded by mu
}

func (f *memFile) ReadAt(b []byte, at int64) (int, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if at >= int64(len(f.data)) {
		return 0, io.EOF
	}
	n := copy(b, f.data[at:])
	if n < len(b) {
		return n, io.EOF
	}
	return n, nil
}

func (f *memFile) WriteAt(b []byte, at int64) (int, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if gap := at - int64(len(f.data)); gap > 0 {
		f.data = append(f.data, make([]byte, gap)...)
	}
	n := copy(f.data[at:], b)
	f.data = append(f.data, b[n:]...)
	return len(b), nil
}

func (f *memFile) Size() (int64, error) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return int64(len(f.data)), nil
}

func (f *memFile) Sync() error  { return nil }
func (f *memFile) Close() error { return nil }
