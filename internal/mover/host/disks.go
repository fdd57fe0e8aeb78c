package host

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/mover"
)

// isDevice tells whether there is a block device at the path.
func isDevice(path string) bool {
	var st unix.Stat_t
	return unix.Stat(path, &st) == nil && st.Mode&unix.S_IFMT == unix.S_IFBLK
}

// describeInside says what is in a folder, or how big a block device is and who
// has it.
func describeInside(path string, info *mover.PathInfo) {
	var st unix.Stat_t
	if unix.Stat(path, &st) != nil {
		return
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFDIR:
		entries, err := os.ReadDir(path)
		info.Empty = err == nil && len(entries) == 0
	case unix.S_IFBLK:
		info.DeviceSize, info.Busy = lookAtDevice(path)
	}
}

// lookAtDevice opens a block device alone: that fails while the host has a file
// system, a volume group or the like on it.
func lookAtDevice(path string) (size int64, busy string) {
	f, err := os.OpenFile(path, os.O_RDWR|unix.O_EXCL, 0)
	if errors.Is(err, unix.EBUSY) {
		busy = "the host has it mounted, or keeps a volume on it"
		f, err = os.Open(path)
	}
	if err != nil {
		return 0, fmt.Sprintf("it cannot be opened: %v", err)
	}
	defer func() { _ = f.Close() }()
	if size, err = f.Seek(0, 2); err != nil {
		return 0, fmt.Sprintf("its size cannot be told: %v", err)
	}
	return size, busy
}

// readyDevice refuses a device that somebody came to use since the plan.
func readyDevice(plan backstay.PlannedDisk) error {
	size, busy := lookAtDevice(plan.Path)
	if busy == "" && size < plan.Size {
		busy = fmt.Sprintf("it has %d bytes, and the disk %d", size, plan.Size)
	}
	if busy != "" {
		return backstay.Errorf(backstay.CodeDeviceUnfit, "%s cannot take disk %s", plan.Path, plan.Target).Becausef("%s", busy)
	}
	return nil
}

// folderMode lets QEMU's user come to the disks in a folder, and see nothing.
const folderMode = 0o711

// claimFolder journals the folder of a restore of disks: all of it, if it is
// made; an empty one that is there already stays when all in it goes.
func (j *restoreJournal) claimFolder(plan backstay.RestorePlan, others []*restoreJournal) error {
	if plan.Kind != backstay.RestoreDisks {
		return nil
	}
	entries, err := os.ReadDir(plan.Folder)
	switch {
	case errors.Is(err, os.ErrNotExist):
		j.Folders = append(j.Folders, plan.Folder)
	case err != nil:
		return backstay.Errorf(backstay.CodeFileExists, "%s cannot be the folder of the disks", plan.Folder).Because(err)
	case len(entries) > 0:
		return backstay.Errorf(backstay.CodeFileExists, "%s is there, and is not empty", plan.Folder).
			Becausef("a restore never writes among files that are not its own").Do("choose another --to")
	}
	under := func(p string) bool { return p == plan.Folder || strings.HasPrefix(p, plan.Folder+"/") }
	for _, o := range others {
		if o.Job == j.Job || !slices.ContainsFunc(o.Files, under) && !slices.ContainsFunc(o.Folders, under) {
			continue
		}
		if o.Staged == nil || o.Abandoned {
			return backstay.Errorf(backstay.CodeFileExists, "another restore writes to %s", plan.Folder).
				Becausef("job %s does", o.Job).Do("choose another --to")
		}
		// What it made there is gone. Its undo would remove what is made now.
		if err := o.remove(); err != nil {
			return err
		}
	}
	return nil
}

// makeFolder makes the folder that the journal names.
func makeFolder(plan backstay.RestorePlan) error {
	if plan.Kind != backstay.RestoreDisks {
		return nil
	}
	err := os.Mkdir(plan.Folder, folderMode)
	if errors.Is(err, os.ErrExist) {
		return nil
	}
	if err == nil {
		err = os.Chmod(plan.Folder, folderMode) // whatever the umask
	}
	if err != nil {
		return fmt.Errorf("make folder of the disks: %w", err)
	}
	return durable.Sync(filepath.Dir(plan.Folder))
}
