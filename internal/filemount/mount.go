package filemount

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"log"
	"os"
	"os/exec"
	"strings"
	"time"

	fuse "github.com/hanwen/go-fuse/v2/fs"
	lowfuse "github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
)

// fileSystem is the type of our mounts in the kernel's list, and namePrefix begins
// the names of what is mounted: the session follows.
const (
	fileSystem = "fuse.backstay"
	namePrefix = "backstay:"
)

func sourceName(id backstay.FileSessionID) string { return namePrefix + string(id) }

// serveFiles mounts the session's volumes and returns when they are mounted no more.
func serveFiles(ctx context.Context, o Order, session backstay.FileSession, source Source, end context.CancelCauseFunc, ready func(report) error) error {
	r := newView(ctx, source, session, func(err error) { end(fmt.Errorf("%w: %w", errOver, err)) })
	long := forever
	options := &fuse.Options{
		EntryTimeout: &long, AttrTimeout: &long, NegativeTimeout: &long, NullPermissions: true,
		RootStableAttr: &fuse.StableAttr{Ino: 1},
		MountOptions: lowfuse.MountOptions{
			FsName: sourceName(o.Session), Name: strings.TrimPrefix(fileSystem, "fuse."),
			// A guest's files are shown, not run with the rights that their modes give.
			Options:    []string{"ro", "nosuid", "nodev", "noexec"},
			AllowOther: o.AllowOther, DirectMount: os.Geteuid() == 0,
			MaxReadAhead: 1 << 20, MaxWrite: 1 << 20, MaxBackground: 32,
			DisableXAttrs: true, IgnoreSecurityLabels: true,
			Logger: log.New(io.Discard, "", 0),
		},
		Logger: log.New(io.Discard, "", 0),
	}
	if options.DirectMount { // what the kernel itself takes as flags
		options.Options = nil
		options.DirectMountFlags = unix.MS_RDONLY | unix.MS_NOSUID | unix.MS_NODEV | unix.MS_NOEXEC
	}
	if o.AllowOther { // others see what the guest's own modes let them see
		options.Options = append(options.Options, "default_permissions")
	}
	server, err := fuse.Mount(o.Dir, r, options)
	if err != nil {
		return fmt.Errorf("mount on %s: %w", o.Dir, err)
	}
	unmounted := make(chan struct{})
	go func() {
		server.Wait()
		close(unmounted)
	}()
	if err := ready(report{}); err != nil {
		end(err)
	}
	select {
	case <-unmounted: // by the user
		return nil
	case <-ctx.Done():
	}
	if err := unmount(o.Dir); err != nil {
		return err
	}
	select {
	case <-unmounted:
	case <-time.After(lazyPatience): // a program still has a file open; it cannot read it any more
	}
	return nil
}

// lazyPatience is how long programs that have files of an ended session open are
// waited for.
const lazyPatience = time.Second

// unmount takes a mount away even if a program has a file of it open.
func unmount(dir string) error {
	err := unix.Unmount(dir, unix.MNT_DETACH|unix.UMOUNT_NOFOLLOW)
	if err == nil {
		return nil
	}
	for _, tool := range []string{"fusermount3", "fusermount"} {
		out, toolErr := exec.Command(tool, "-u", "-z", "--", dir).CombinedOutput()
		if toolErr == nil {
			return nil
		}
		if !errors.Is(toolErr, exec.ErrNotFound) {
			err = fmt.Errorf("%w: %s", toolErr, strings.TrimSpace(string(out)))
			break
		}
	}
	if _, mounted, listErr := MountedOn(dir); listErr == nil && !mounted {
		return nil // somebody else was faster
	}
	return fmt.Errorf("unmount %s: %w", dir, err)
}

// MountedOn returns the session whose files are mounted on a folder; false if none
// of ours is.
func MountedOn(dir string) (backstay.FileSessionID, bool, error) {
	f, err := os.Open("/proc/self/mountinfo")
	if err != nil {
		return "", false, fmt.Errorf("list mounts: %w", err)
	}
	defer func() { _ = f.Close() }()
	found := ""
	for in := bufio.NewScanner(f); in.Scan(); {
		before, after, ok := strings.Cut(in.Text(), " - ")
		where, what := strings.Fields(before), strings.Fields(after)
		if !ok || len(where) < 5 || len(what) < 2 || unescape(where[4]) != dir {
			continue
		}
		found = "" // what is mounted last lies on top
		if what[0] == fileSystem {
			found = strings.TrimPrefix(unescape(what[1]), namePrefix)
		}
	}
	return backstay.FileSessionID(found), found != "", nil
}

// unescape undoes how the kernel writes blanks in its list.
func unescape(s string) string {
	return strings.NewReplacer(`\040`, " ", `\011`, "\t", `\012`, "\n", `\134`, `\`).Replace(s)
}

// Unmount takes a mount of ours away from a folder. CodeUnknownSession if there is none.
func Unmount(dir string) error {
	_, mounted, err := MountedOn(dir)
	if err != nil {
		return err
	}
	if !mounted {
		return backstay.Errorf(backstay.CodeUnknownSession, "no point is mounted on %s", dir)
	}
	return unmount(dir)
}

// CheckFolder sees that a folder can be mounted on: it is there and empty.
func CheckFolder(dir string) error {
	refuse := func(why string) error {
		return backstay.Errorf(backstay.CodeUsage, "%s cannot be mounted on", dir).Becausef("%s", why).Do("name an empty folder")
	}
	entries, err := os.ReadDir(dir)
	switch {
	case errors.Is(err, fs.ErrNotExist):
		return refuse("it is not there")
	case err != nil:
		return refuse(err.Error())
	case len(entries) > 0:
		return refuse("it is not empty")
	}
	return nil
}
