package pull

import (
	"context"
	"encoding/xml"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

const maxSocketPath = 107 // sun_path of Linux, without the zero

// Tests make do with less.
var (
	ahead   int64 = 256 << 20 // bytes that a scratch image can always still grow by
	lowRoom int64 = 32 << 20  // bytes below which a session ends for its guest's sake
)

// roomFor is the room that a scratch image should find: a twentieth of the disk,
// and at most 1 GiB.
func roomFor(size int64) int64 { return min(size/20, 1<<30) + ahead }

// scratchFolder is the folder of the disk's image, where the guest's owner has
// provided for room; that of layers for what is no file in a folder.
func (p *Puller) scratchFolder(source string) string {
	if info, err := os.Stat(source); err == nil && info.Mode().IsRegular() && filepath.IsAbs(source) {
		return filepath.Dir(source)
	}
	return p.layers
}

// checkRoom sees that each file system has room for the scratch images on it.
func (p *Puller) checkRoom(disks []*Disk) error {
	need := map[uint64]int64{}
	for _, d := range disks {
		folder := p.scratchFolder(d.source.Source)
		if folder == p.layers {
			if err := os.MkdirAll(folder, 0o711); err != nil {
				return fmt.Errorf("make the folder of scratch images: %w", err)
			}
		}
		var st unix.Stat_t
		if err := unix.Stat(folder, &st); err != nil {
			return fmt.Errorf("look at the folder of disk %s: %w", d.Target, err)
		}
		room, err := roomIn(folder)
		if err != nil {
			return err
		}
		need[st.Dev] += roomFor(d.Size)
		if room < need[st.Dev]+2*lowRoom {
			return backstay.Errorf(backstay.CodeNoSpace, "there is too little room for what the guest overwrites while disk %s is read", d.Target).
				Becausef("%s has %d MiB left, and scratch images should find %d MiB", folder, room>>20, (need[st.Dev]+2*lowRoom)>>20)
		}
	}
	return nil
}

func roomIn(folder string) (int64, error) {
	var fs unix.Statfs_t
	if err := unix.Statfs(folder, &fs); err != nil {
		return 0, fmt.Errorf("look for room in %s: %w", folder, err)
	}
	return int64(fs.Bavail) * fs.Bsize, nil
}

// makeScratch makes the scratch image of a disk, mode 0600, encrypted like the
// disk itself, with room ahead. Its backing file is of no consequence: libvirt
// says what lies below it.
func (p *Puller) makeScratch(ctx context.Context, d *Disk) error {
	err := p.images.CreateOverlay(ctx, hypervisor.Overlay{
		Path: d.scratch, Size: d.Size,
		Backing: hypervisor.ImageOf(d.source),
	})
	if err != nil {
		return err
	}
	d.reserved, err = reserve(d.scratch, 0, d.Size)
	return err
}

// reserve keeps room ahead of a growing file, from the bytes that are reserved
// already, and returns what is reserved now; never more than a scratch image of a
// disk of this size can take. A file system that cannot reserve
// is watched by its free room alone.
func reserve(path string, reserved, size int64) (int64, error) {
	info, err := os.Stat(path)
	if err != nil {
		return reserved, err
	}
	most := size + size/8 + 4<<20 // with QEMU's own tables
	if reserved >= most || reserved-info.Size() >= ahead/2 {
		return reserved, nil
	}
	f, err := os.OpenFile(path, os.O_WRONLY, 0)
	if err != nil {
		return reserved, err
	}
	want := min(info.Size()+ahead, most)
	err = unix.Fallocate(int(f.Fd()), unix.FALLOC_FL_KEEP_SIZE, 0, want)
	if errors.Is(err, unix.EOPNOTSUPP) {
		err = nil
	}
	if err = errors.Join(err, f.Close()); err != nil {
		return reserved, fmt.Errorf("keep room for scratch image %s: %w", path, err)
	}
	return want, nil
}

// qemuUser is the user that a running VM's QEMU runs as, from the security
// label of its definition; false if it names none.
func qemuUser(liveXML string) (uid, gid int, ok bool) {
	var d struct {
		Labels []struct {
			Model string `xml:"model,attr"`
			Label string `xml:"label"`
		} `xml:"seclabel"`
	}
	if xml.Unmarshal([]byte(liveXML), &d) != nil {
		return 0, 0, false
	}
	for _, l := range d.Labels {
		u, g, cut := strings.Cut(l.Label, ":")
		if l.Model != "dac" || !cut {
			continue
		}
		uid, uErr := strconv.Atoi(strings.TrimPrefix(u, "+"))
		gid, gErr := strconv.Atoi(strings.TrimPrefix(g, "+"))
		return uid, gid, uErr == nil && gErr == nil
	}
	return 0, 0, false
}
