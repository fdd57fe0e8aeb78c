package movertest

import (
	"bytes"
	"cmp"
	"context"
	"fmt"
	"io"
	"path"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/mover"
)

// FakeVolume is a volume of the fake's points; every point has the same.
type FakeVolume struct {
	backstay.Volume
	// Key opens it, if its kind is locked.
	Key []byte
	// Files are all of its files and folders by path; "/" is there by itself.
	Files map[backstay.FilePath]FakeFile
}

// FakeFile is a file, folder or link of the fake's.
type FakeFile struct {
	backstay.FileEntry // its Name and Size are made from the path and the Content
	Content            []byte
}

// FakePassphrase opens the locked volume of NewFake's points.
const FakePassphrase = "open sesame"

// fakeSession is an open session.
type fakeSession struct {
	open    mover.OpenFilesRequest
	opened  map[backstay.VolumeID]bool // the locked ones that are open
	ended   context.Context
	end     context.CancelCauseFunc
	expires time.Time
}

// fakeVolumes are those of NewFake: a system and a locked one.
func fakeVolumes() []FakeVolume {
	at := time.Date(2025, 3, 1, 8, 30, 0, 0, time.UTC)
	file := func(mode uint32, content string) FakeFile {
		return FakeFile{backstay.FileEntry{Type: backstay.TypeFile, Mode: mode, ModTime: at, Links: 1}, []byte(content)}
	}
	folder := FakeFile{backstay.FileEntry{Type: backstay.TypeFolder, Mode: 0o755, ModTime: at, Links: 2}, nil}
	link := FakeFile{backstay.FileEntry{Type: backstay.TypeLink, Mode: 0o777, ModTime: at, Links: 1, Target: "passwd"}, nil}
	return []FakeVolume{
		{
			Volume: backstay.Volume{
				ID: "vda1", Kind: backstay.VolumeFiles, FileSystem: "ext4", Label: "root", Size: 1 << 20, Used: 64 << 10,
				MountPoint: "/", Disks: []backstay.DiskTarget{"vda"}, On: []string{"partition 1"},
			},
			Files: map[backstay.FilePath]FakeFile{
				"/etc": folder, "/etc/hostname": file(0o644, "web01\n"), "/etc/passwd": file(0o644, "root:x:0:0:root:/root:/bin/sh\n"),
				"/etc/users": link, "/etc/b\xffd": file(0o600, "no UTF-8\n"), "/empty": folder,
				"/big": {backstay.FileEntry{Type: backstay.TypeFile, Mode: 0o600, ModTime: at, Links: 1}, bytes.Repeat([]byte("0123456789abcdef"), 64<<10)},
			},
		},
		{
			Volume: backstay.Volume{
				ID: "vdb1", Kind: backstay.VolumeLocked, FileSystem: "crypto_LUKS", Size: 2 << 20, Disks: []backstay.DiskTarget{"vdb"},
				On: []string{"partition 1"}, Keys: []backstay.VolumeKey{backstay.KeyPassphrase, backstay.KeyFile}, Reason: "it is encrypted",
			},
			Key:   []byte(FakePassphrase),
			Files: map[backstay.FilePath]FakeFile{"/secret": file(0o400, "42\n")},
		},
	}
}

// AddPoint gives the fake a point that nobody took.
func (f *Fake) AddPoint(id backstay.PointID, disks []backstay.PointDisk, tiers ...backstay.Tier) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := &fakePoint{snapshot: slices.Contains(tiers, backstay.SnapshotTier), inVault: slices.Contains(tiers, backstay.VaultTier)}
	p.taken.Disks = disks
	f.points[id] = p
}

// OpenFiles is mover.Files'.
func (f *Fake) OpenFiles(ctx context.Context, r mover.OpenFilesRequest, progress mover.Progress) (mover.OpenedFiles, error) {
	if err := f.enter(ctx, "OpenFiles"); err != nil {
		return mover.OpenedFiles{}, err
	}
	if r.Tier == backstay.VaultTier {
		if err := f.opens(r.Vault); err != nil {
			return mover.OpenedFiles{}, err
		}
	}
	p, err := f.point(r.Point, r.Tier)
	if err != nil {
		return mover.OpenedFiles{}, err
	}
	if progress != nil {
		progress(mover.Report{Phase: "open"})
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	s := f.sessions[r.Session]
	if s == nil {
		s = &fakeSession{open: r, opened: map[backstay.VolumeID]bool{}, expires: r.Expires}
		s.ended, s.end = context.WithCancelCause(context.Background())
		f.sessions[r.Session] = s
	}
	opened := mover.OpenedFiles{Disks: p.taken.Disks, Volumes: f.volumes(s)}
	if s.open.Raw {
		opened.Volumes = nil
	}
	if r.Tier == backstay.SnapshotTier {
		opened.Holds = fmt.Sprintf("the layers of point %s", r.Point)
	}
	return opened, nil
}

// volumes are those of a session. The caller holds mu.
func (f *Fake) volumes(s *fakeSession) []backstay.Volume {
	var all []backstay.Volume
	for _, v := range f.Volumes {
		found := v.Volume
		if s.opened[found.ID] {
			found.Kind, found.Reason, found.Keys, found.FileSystem = backstay.VolumeFiles, "", nil, "ext4"
			found.On = append(slices.Clone(found.On), "LUKS")
		}
		all = append(all, found)
	}
	return all
}

// EndSession ends a session as the host does by itself: when it expires, or gives way.
func (f *Fake) EndSession(id backstay.FileSessionID, reason string) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.endSession(id, reason)
}

func (f *Fake) endSession(id backstay.FileSessionID, reason string) {
	if s := f.sessions[id]; s != nil {
		s.end(backstay.Errorf(backstay.CodeSessionEnded, "session %s has ended", id).Becausef("%s", reason))
		delete(f.sessions, id)
		f.endedSessions[id] = reason
	}
}

// session finds an open session.
func (f *Fake) session(id backstay.FileSessionID) (*fakeSession, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if s := f.sessions[id]; s != nil {
		return s, nil
	}
	return nil, backstay.Errorf(backstay.CodeSessionEnded, "session %s has ended", id).Becausef("%s", cmp.Or(f.endedSessions[id], "it is not open on the host"))
}

// volume finds a volume that can be read.
func (f *Fake) volume(s *fakeSession, id backstay.VolumeID) (*FakeVolume, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	for i := range f.Volumes {
		v := &f.Volumes[i]
		switch {
		case v.ID != id:
		case v.Kind == backstay.VolumeLocked && !s.opened[id]:
			return nil, backstay.Errorf(backstay.CodeVolumeLocked, "volume %s is locked", id)
		case v.Kind != backstay.VolumeFiles && v.Kind != backstay.VolumeLocked:
			return nil, backstay.Errorf(backstay.CodeVolumeUnread, "volume %s cannot be read", id).Becausef("%s", v.Reason)
		default:
			return v, nil
		}
	}
	return nil, backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %s", id)
}

// UnlockVolume is mover.Files'.
func (f *Fake) UnlockVolume(ctx context.Context, r mover.UnlockRequest) ([]backstay.Volume, error) {
	if err := f.enter(ctx, "UnlockVolume"); err != nil {
		return nil, err
	}
	s, err := f.session(r.Session)
	if err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, v := range f.Volumes {
		if v.ID != r.Volume {
			continue
		}
		if v.Kind == backstay.VolumeLocked && !bytes.Equal(v.Key, r.Key.Reveal()) {
			return nil, backstay.Errorf(backstay.CodeVolumeKey, "the %s does not open volume %s", r.Kind, r.Volume)
		}
		s.opened[r.Volume] = v.Kind == backstay.VolumeLocked
		return f.volumes(s), nil
	}
	return nil, backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %s", r.Volume)
}

// entry is the entry of a path.
func (v *FakeVolume) entry(p backstay.FilePath) (FakeFile, error) {
	clean := backstay.FilePath(path.Clean("/" + string(p)))
	file, ok := v.Files[clean]
	if clean == "/" && !ok {
		file.FileEntry, ok = backstay.FileEntry{Type: backstay.TypeFolder, Mode: 0o755, Links: 2}, true
	}
	if !ok {
		return FakeFile{}, backstay.Errorf(backstay.CodeUnknownFile, "there is no %s in volume %s", p, v.ID).Becausef("the volume has no such path")
	}
	file.Name = backstay.FilePath(path.Base(string(clean)))
	file.Size = int64(len(file.Content))
	return file, nil
}

// Folder is mover.Files'.
func (f *Fake) Folder(ctx context.Context, r mover.FolderRequest) (mover.FolderPage, error) {
	if err := f.enter(ctx, "Folder"); err != nil {
		return mover.FolderPage{}, err
	}
	s, err := f.session(r.Session)
	if err != nil {
		return mover.FolderPage{}, err
	}
	v, err := f.volume(s, r.Volume)
	if err != nil {
		return mover.FolderPage{}, err
	}
	file, err := v.entry(r.Path)
	if err != nil {
		return mover.FolderPage{}, err
	}
	if r.Itself {
		return mover.FolderPage{Entries: []backstay.FileEntry{file.FileEntry}}, nil
	}
	if file.Type != backstay.TypeFolder {
		return mover.FolderPage{}, backstay.Errorf(backstay.CodeFileUnfit, "%s is no folder", r.Path)
	}
	page := mover.FolderPage{Entries: []backstay.FileEntry{}}
	for _, p := range v.sorted() {
		if path.Dir(string(p)) != path.Clean("/"+string(r.Path)) || path.Base(string(p)) <= r.After {
			continue
		}
		if r.Limit > 0 && len(page.Entries) == r.Limit {
			page.Next = string(page.Entries[r.Limit-1].Name)
			break
		}
		inside, err := v.entry(p)
		if err != nil {
			return mover.FolderPage{}, err
		}
		page.Entries = append(page.Entries, inside.FileEntry)
	}
	return page, nil
}

func (v *FakeVolume) sorted() []backstay.FilePath {
	var all []backstay.FilePath
	for p := range v.Files {
		all = append(all, p)
	}
	slices.Sort(all)
	return all
}

// streamFake writes in pieces, between which it looks whether it shall go on.
func (f *Fake) streamFake(ctx context.Context, s *fakeSession, w io.Writer, content []byte) error {
	for piece := range slices.Chunk(content, 64<<10) {
		if err := f.enter(ctx, "piece"); err != nil {
			return err
		}
		if err := context.Cause(s.ended); err != nil {
			return err
		}
		if _, err := w.Write(piece); err != nil {
			return err
		}
	}
	return nil
}

// ReadFile is mover.Files'. Hook is called with "piece" between pieces.
func (f *Fake) ReadFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	if err := f.enter(ctx, "ReadFile"); err != nil {
		return err
	}
	s, err := f.session(r.Session)
	if err != nil {
		return err
	}
	content, err := f.content(s, r)
	if err != nil {
		return err
	}
	size := int64(len(content))
	if r.Offset < 0 || r.Length < -1 {
		return backstay.Errorf(backstay.CodeUsage, "%d bytes at %d cannot be read", r.Length, r.Offset)
	}
	content = content[min(r.Offset, size):]
	if r.Length >= 0 {
		content = content[:min(r.Length, int64(len(content)))]
	}
	return f.streamFake(ctx, s, w, content)
}

// content is that of a file or of a disk, whose bytes are its target again and again.
func (f *Fake) content(s *fakeSession, r mover.FileReadRequest) ([]byte, error) {
	if r.Disk != "" {
		for _, d := range f.Machine.Disks {
			if d.Target == r.Disk {
				return bytes.Repeat([]byte(d.Target), int(d.Size))[:d.Size], nil
			}
		}
		return nil, backstay.Errorf(backstay.CodeDiskUnknown, "disk %s is not in the point", r.Disk)
	}
	v, err := f.volume(s, r.Volume)
	if err != nil {
		return nil, err
	}
	file, err := v.entry(r.Path)
	if err != nil {
		return nil, err
	}
	if file.Type != backstay.TypeFile {
		return nil, backstay.Errorf(backstay.CodeFileUnfit, "%s is no file", r.Path)
	}
	return file.Content, nil
}

// TakeFiles is mover.Files'.
func (f *Fake) TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error {
	if err := f.enter(ctx, "TakeFiles"); err != nil {
		return err
	}
	s, err := f.session(r.Session)
	if err != nil {
		return err
	}
	v, err := f.volume(s, r.Volume)
	if err != nil {
		return err
	}
	var stream bytes.Buffer
	out := items.NewWriter(&stream)
	for _, p := range r.Paths {
		if _, err := v.entry(p); err != nil {
			return err
		}
		strip := cmp.Or(string(r.Strip), path.Dir(string(p)))
		for _, at := range v.sorted() {
			if at != p && !strings.HasPrefix(string(at), strings.TrimSuffix(string(p), "/")+"/") {
				continue
			}
			if err := v.writeItem(out, at, strings.TrimPrefix(strings.TrimPrefix(string(at), strip), "/")); err != nil {
				return err
			}
		}
	}
	if err := out.Close(); err != nil {
		return err
	}
	return f.streamFake(ctx, s, w, stream.Bytes())
}

func (v *FakeVolume) writeItem(w *items.Writer, at backstay.FilePath, as string) error {
	file, err := v.entry(at)
	if err != nil {
		return err
	}
	item := items.Item{
		Path: backstay.FilePath(as), Type: file.Type, Size: file.Size, Mode: file.Mode, UID: file.UID, GID: file.GID,
		ModTime: file.ModTime, Target: file.Target,
	}
	if err := w.Begin(&item); err != nil {
		return err
	}
	for offset := 0; offset < len(file.Content); offset += items.MaxRun {
		if err := w.Data(int64(offset), file.Content[offset:min(offset+items.MaxRun, len(file.Content))]); err != nil {
			return err
		}
	}
	return w.End("")
}

// CloseFiles is mover.Files'.
func (f *Fake) CloseFiles(ctx context.Context, id backstay.FileSessionID) error {
	if err := f.enter(ctx, "CloseFiles"); err != nil {
		return err
	}
	f.EndSession(id, "it was closed")
	return nil
}

// OpenSessions is mover.Files'.
func (f *Fake) OpenSessions(ctx context.Context) ([]backstay.FileSessionID, error) {
	if err := f.enter(ctx, "OpenSessions"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	open := []backstay.FileSessionID{}
	for id := range f.sessions {
		open = append(open, id)
	}
	slices.Sort(open)
	return open, nil
}

// EndSessionsOn is mover.GivesWay's. The fake's points stand on nothing but themselves.
func (f *Fake) EndSessionsOn(ctx context.Context, p backstay.PointID, why string) ([]backstay.FileSessionID, error) {
	if err := f.enter(ctx, "EndSessionsOn"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	ended := []backstay.FileSessionID{}
	for id, s := range f.sessions {
		if s.open.Point == p && s.open.Tier == backstay.SnapshotTier {
			ended = append(ended, id)
			f.endSession(id, why)
		}
	}
	slices.Sort(ended)
	return ended, nil
}
