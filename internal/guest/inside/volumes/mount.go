package volumes

import (
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// mountTime is how long a file system may take until it is mounted, with its
// journal: one that takes longer was made to hang.
const mountTime = 2 * time.Minute

// mountFolder holds what is mounted.
const mountFolder = "/run/volumes"

// mounts are the file systems that were mounted, or could not be.
type mounts struct {
	load func(modules ...string) error

	mu  sync.Mutex
	all map[*node]*mounted // guarded by mu
}

// mounted is a file system that was mounted, or why it could not be. It is not
// tried twice: one that hung once still does.
type mounted struct {
	done chan struct{} // closed once the others are set
	path string
	err  error
	why  string // for people, if err is set
	note string // what they must know even so
}

// Root returns the folder at the root of a volume, and mounts the volume first if
// need be. The caller closes it.
func (s *Set) Root(ctx context.Context, id backstay.VolumeID) (*os.File, error) {
	n, within, err := s.rootOf(id)
	if err != nil {
		return nil, err
	}
	m := s.mounts.mount(ctx, n)
	if m.err != nil {
		return nil, backstay.Errorf(backstay.CodeVolumeUnread, "volume %s cannot be read", id).Becausef("%s", m.why)
	}
	if err := ctx.Err(); err != nil {
		return nil, err
	}
	root, err := below(m.path, within, unix.O_DIRECTORY)
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeVolumeUnread, "volume %s cannot be read", id).Becausef("its root folder cannot be opened: %s", plain(err))
	}
	return root, nil
}

// rootOf returns the node of a volume, and the path of its root within that.
func (s *Set) rootOf(id backstay.VolumeID) (*node, string, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, n := range s.nodes {
		if n.hidden || n.id != id && !strings.HasPrefix(string(id), string(n.id)+":") {
			continue
		}
		switch {
		case n.content.Class == probe.Locked:
			return nil, "", backstay.Errorf(backstay.CodeVolumeLocked, "volume %s is locked", id)
		case n.content.Class != probe.Files:
			return nil, "", backstay.Errorf(backstay.CodeVolumeUnread, "volume %s holds no files that can be read", id).
				Becausef("%s", s.volumesOf(n)[0].Reason)
		case n.id == id:
			return n, n.start, nil
		}
		for _, sub := range n.subvolumes {
			if sub.volume(n.id) == id {
				return n, sub.path, nil
			}
		}
	}
	return nil, "", backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %q", id)
}

// below opens a path in a folder, out of which no link leads.
func below(folder, path string, flags uint64) (*os.File, error) {
	dir, err := os.Open(folder)
	if err != nil {
		return nil, err
	}
	path = strings.TrimLeft(path, "/")
	if path == "" {
		return dir, nil
	}
	defer dir.Close()
	fd, err := unix.Openat2(int(dir.Fd()), path, &unix.OpenHow{
		Flags:   flags | unix.O_RDONLY | unix.O_CLOEXEC | unix.O_NONBLOCK | unix.O_NOCTTY,
		Resolve: unix.RESOLVE_IN_ROOT | unix.RESOLVE_NO_MAGICLINKS,
	})
	if err != nil {
		return nil, err
	}
	return os.NewFile(uintptr(fd), path), nil
}

// of returns what became of mounting a node; nil if it was not tried, or is still.
func (m *mounts) of(n *node) *mounted {
	m.mu.Lock()
	defer m.mu.Unlock()
	if one := m.all[n]; one != nil {
		select {
		case <-one.done:
			return one
		default:
		}
	}
	return nil
}

// mount mounts a node, once. It returns when that is done or the time is over, and
// when ctx ends: then with its error.
func (m *mounts) mount(ctx context.Context, n *node) *mounted {
	m.mu.Lock()
	one := m.all[n]
	if one == nil {
		one = &mounted{done: make(chan struct{})}
		if m.all == nil {
			m.all = map[*node]*mounted{}
		}
		m.all[n] = one
		one.path = filepath.Join(mountFolder, fmt.Sprint(len(m.all)))
		go m.run(n, one)
	}
	m.mu.Unlock()
	select {
	case <-one.done:
		return one
	case <-ctx.Done():
		return &mounted{err: ctx.Err(), why: "the call ended before it was mounted"}
	}
}

// run mounts a node. A mount that hangs cannot be ended, only left behind: its
// thread is gone with the machine.
func (m *mounts) run(n *node, one *mounted) {
	defer close(one.done)
	type result struct {
		note string
		err  error
	}
	ended := make(chan result, 1)
	go func() {
		note, err := m.try(n, one.path)
		ended <- result{note, err}
	}()
	select {
	case r := <-ended:
		one.note, one.err = r.note, r.err
		if r.err != nil {
			one.why = mountReason(n, r.err)
		}
	case <-time.After(mountTime):
		one.err = context.DeadlineExceeded
		one.why = fmt.Sprintf("its file system (%s) could not be mounted within %s: it is damaged", n.content.Type, mountTime)
	}
}

// attempt is one way to mount a file system.
type attempt struct {
	options string
	note    string // what people must know if this is how it went
}

const latest = "the latest changes may lack or be half there"

// attempts are the ways to mount each type, the best first. All are read-only;
// what has a journal replays it first, on the overlay.
func attempts(n *node) []attempt {
	switch n.content.Type {
	case "ext2", "ext3", "ext4":
		// A superblock may ask for a panic at an error.
		return []attempt{{"errors=continue", ""}, {"errors=continue,noload", "its journal is damaged and was not replayed: " + latest}}
	case "xfs":
		// Two of the same UUID are mounted at a time where a VM has copies of a disk.
		return []attempt{{"nouuid", ""}, {"nouuid,norecovery", "its log is damaged and was not replayed: " + latest}}
	case probe.TypeBtrfs:
		all := []attempt{
			{"subvolid=5", ""},
			{"subvolid=5,rescue=usebackuproot", "its newest root is damaged, and an older one is shown: the latest changes may lack"},
			{"subvolid=5,rescue=nologreplay", "its log is damaged and was not replayed: " + latest},
		}
		if lacking := n.content.Members - 1 - len(n.others); lacking > 0 {
			note := fmt.Sprintf("%d of its %d devices are not in the point, so some files may not be readable", lacking, n.content.Members)
			return []attempt{{"subvolid=5,degraded", note}}
		}
		return all
	case "vfat":
		return []attempt{{"utf8,codepage=437,iocharset=iso8859-1,tz=UTC,fmask=0133,dmask=0022", ""}}
	case "exfat":
		return []attempt{{"iocharset=utf8,fmask=0133,dmask=0022", ""}}
	case "iso9660", "udf":
		return []attempt{{"iocharset=utf8", ""}}
	}
	return []attempt{{"", ""}}
}

// modulesOf are those that a type of file system needs.
var modulesOf = map[string][]string{
	"ext2": {"ext4"}, "ext3": {"ext4"}, "ext4": {"ext4"}, "xfs": {"xfs"},
	"btrfs": {"xxhash_generic", "blake2b_generic", "sha256_generic", "crc32c_generic", "btrfs"},
	"vfat":  {"nls_cp437", "nls_iso8859-1", "nls_utf8", "vfat"}, "exfat": {"nls_utf8", "exfat"}, "ntfs": {"fuse"},
	"iso9660": {"nls_utf8", "isofs"}, "udf": {"nls_utf8", "udf"}, "squashfs": {"squashfs"},
}

// try mounts a node and returns what people must know.
func (m *mounts) try(n *node, path string) (note string, err error) {
	if err := os.MkdirAll(path, 0o700); err != nil {
		return "", err
	}
	if err := m.load(modulesOf[n.content.Type]...); err != nil {
		return "", err
	}
	if n.content.Type == "ntfs" {
		return mountNTFS(n, path)
	}
	if err := registerMembers(n); err != nil {
		return "", err
	}
	kind := n.content.Type
	if kind == "ext2" || kind == "ext3" {
		kind = "ext4" // the driver of all three
	}
	for _, a := range attempts(n) {
		failed := unix.Mount(n.device, path, kind, unix.MS_RDONLY|unix.MS_NODEV|unix.MS_NOSUID|unix.MS_NOEXEC|unix.MS_NOATIME, a.options)
		if failed == nil && err != nil && hollow(path) {
			// All that there was is in the journal: an empty folder would be a lie.
			return "", errors.Join(err, unix.Unmount(path, unix.MNT_DETACH))
		}
		if failed == nil {
			return a.note, nil
		}
		// The first one says best what is wrong.
		if err == nil {
			err = &mountError{failed, kernelSays(filepath.Base(n.device))}
		}
	}
	return "", err
}

// mountError is what a mount failed with, and what the kernel said of it.
type mountError struct {
	error
	said string
}

func (e *mountError) Unwrap() error { return e.error }

// hollow tells whether a root folder has nothing in it, or cannot be read.
func hollow(path string) bool {
	entries, err := os.ReadDir(path)
	return err != nil || len(slices.DeleteFunc(entries, func(e os.DirEntry) bool { return e.Name() == "lost+found" })) == 0
}

// mountNTFS mounts through a program, as the kernel has no driver. Streams appear
// as extended attributes.
func mountNTFS(n *node, path string) (note string, err error) {
	p := program{name: "ntfs-3g", args: []string{"-o", "ro,nosuid,nodev,noexec,noatime,streams_interface=xattr", n.device, path}}
	if _, _, err := p.run(context.Background()); err != nil {
		return "", err
	}
	return ntfsNote(path), nil
}

// ntfsSays is why ntfs-3g did not mount: its exit status, or the first line of what it
// says, as the lines behind it are advice for another machine. See ntfs-3g.probe(8).
func ntfsSays(f *failure) string {
	line, _, _ := strings.Cut(strings.TrimSpace(f.stderr), "\n")
	switch f.code {
	case 12:
		return "it is no valid NTFS"
	case 13:
		return "it is damaged: let Windows check it (chkdsk)"
	}
	if line == "" {
		return plain(f.cause)
	}
	return text(line)
}

// ntfsNote says if Windows sleeps in the volume: with "fast startup" it also does
// after it was shut down.
func ntfsNote(path string) string {
	file, err := below(path, "hiberfil.sys", 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	head := make([]byte, 4)
	if _, err := io.ReadFull(file, head); err != nil || !strings.EqualFold(string(head), "hibr") {
		return ""
	}
	return "Windows was hibernated, or shut down with fast startup: what it had not written to the disk yet is missing"
}

// mountReason says for people why a file system was not mounted.
func mountReason(n *node, err error) string {
	reason := fmt.Sprintf("its file system (%s) cannot be mounted", n.content.Type)
	var f *failure
	switch {
	case errors.As(err, &f):
		if n.content.Type == "ntfs" {
			return reason + ": " + ntfsSays(f)
		}
		return reason + " (" + f.lastLine() + ")"
	case errors.Is(err, unix.EUCLEAN), errors.Is(err, unix.EIO), errors.Is(err, unix.EBADMSG):
		reason += ": it is damaged"
	case errors.Is(err, unix.ENODEV):
		return reason + ": the small machine has no driver for it"
	case errors.Is(err, unix.EINVAL), errors.Is(err, unix.EOPNOTSUPP):
		reason += ": it is damaged, or newer than the small machine's kernel"
	default:
		reason += " (" + plain(err) + ")"
	}
	var m *mountError
	if errors.As(err, &m) && m.said != "" {
		reason += " (" + m.said + ")"
	}
	return reason
}

// kernelSays returns the last line about a device in the kernel's log.
func kernelSays(device string) string {
	buf := make([]byte, 64<<10)
	n, err := unix.Klogctl(unix.SYSLOG_ACTION_READ_ALL, buf)
	if err != nil {
		return ""
	}
	last := ""
	for line := range strings.Lines(string(buf[:n])) {
		if strings.Contains(line, device) {
			last = line
		}
	}
	if _, after, ok := strings.Cut(last, "] "); ok {
		last = after
	}
	// The device's name in the small machine tells people nothing.
	return text(strings.NewReplacer(" ("+device+")", "", device, "it").Replace(last))
}

// used is what a mounted file system has in use, in bytes.
func (m *mounted) used() int64 {
	var st unix.Statfs_t
	if unix.Statfs(m.path, &st) != nil || st.Blocks < st.Bfree {
		return 0
	}
	return int64(st.Blocks-st.Bfree) * st.Bsize
}
