package filemount

import (
	"bytes"
	"context"
	"io"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"syscall"

	backstay "github.com/backstay/backstay"
)

// fakeSource is a session whose volumes are folders of this machine.
type fakeSource struct {
	session backstay.FileSession
	folders map[backstay.VolumeID]string
	disk    []byte

	mu    sync.Mutex
	ended bool  // guarded by mu
	away  error // guarded by mu: every answer
	reads int   // guarded by mu
	asked int   // guarded by mu: folders and entries
	bytes int64 // guarded by mu: requested
}

func (f *fakeSource) enter() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.ended {
		return backstay.Errorf(backstay.CodeSessionEnded, "the session has ended")
	}
	return f.away
}

func (f *fakeSource) Session(context.Context) (backstay.FileSession, error) {
	return f.session, f.enter()
}

func (f *fakeSource) End(context.Context) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.ended = true
	return nil
}

func (f *fakeSource) local(v backstay.VolumeID, path backstay.FilePath) string {
	return filepath.Join(f.folders[v], string(path))
}

func (f *fakeSource) Entry(_ context.Context, v backstay.VolumeID, path backstay.FilePath) (backstay.FileEntry, error) {
	if err := f.enter(); err != nil {
		return backstay.FileEntry{}, err
	}
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	return entryOf(f.local(v, path))
}

func entryOf(path string) (backstay.FileEntry, error) {
	info, err := os.Lstat(path)
	if err != nil {
		return backstay.FileEntry{}, backstay.Errorf(backstay.CodeUnknownFile, "there is no %s", path)
	}
	s := info.Sys().(*syscall.Stat_t)
	e := backstay.FileEntry{
		Name: backstay.FilePath(info.Name()), Size: s.Size, Used: s.Blocks * 512, Mode: s.Mode & 0o7777, UID: s.Uid, GID: s.Gid,
		ModTime: info.ModTime().UTC(), Links: uint64(s.Nlink), Inode: s.Ino,
	}
	for t, bits := range types {
		if s.Mode&syscall.S_IFMT == bits {
			e.Type = t
		}
	}
	if e.Type == backstay.TypeLink {
		target, _ := os.Readlink(path)
		e.Target = backstay.FilePath(target)
	}
	return e, nil
}

// pageOf is how many entries the fake lists at a time.
const pageOf = 3

func (f *fakeSource) Folder(_ context.Context, v backstay.VolumeID, path backstay.FilePath, after string) ([]backstay.FileEntry, string, error) {
	if err := f.enter(); err != nil {
		return nil, "", err
	}
	f.mu.Lock()
	f.asked++
	f.mu.Unlock()
	list, err := os.ReadDir(f.local(v, path))
	if err != nil {
		return nil, "", err
	}
	var page []backstay.FileEntry
	for _, d := range list {
		if d.Name() <= after {
			continue
		}
		if len(page) == pageOf {
			return page, string(page[pageOf-1].Name), nil
		}
		e, err := entryOf(filepath.Join(f.local(v, path), d.Name()))
		if err != nil {
			return nil, "", err
		}
		page = append(page, e)
	}
	return page, "", nil
}

func (f *fakeSource) Read(_ context.Context, what What, offset, length int64) (io.ReadCloser, error) {
	if err := f.enter(); err != nil {
		return nil, err
	}
	f.mu.Lock()
	f.reads++
	f.bytes += length
	f.mu.Unlock()
	content := f.disk
	if what.Disk == "" {
		data, err := os.ReadFile(f.local(what.Volume, what.Path))
		if err != nil {
			return nil, err
		}
		content = data
	}
	return io.NopCloser(bytes.NewReader(content[offset : offset+length])), nil
}

// names lists a folder as programs see it.
func names(dir string) []string {
	list, err := os.ReadDir(dir)
	if err != nil {
		return []string{err.Error()}
	}
	var all []string
	for _, d := range list {
		all = append(all, d.Name())
	}
	slices.Sort(all)
	return all
}
