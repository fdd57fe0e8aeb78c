package volumes

import (
	"cmp"
	"context"
	"encoding/binary"
	"fmt"
	"os"
	"slices"
	"strings"
	"unsafe"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// maxSubvolumes is how many subvolumes of a file system are volumes of their own:
// snapshots are made by the thousand. All of them are folders of the whole.
const maxSubvolumes = 64

// subvolume is a part of a Btrfs that is mounted by itself.
type subvolume struct {
	id       uint64
	path     string // from the top of the file system; "" for the top itself
	snapshot bool
}

// volume names a subvolume of a volume.
func (s subvolume) volume(of backstay.VolumeID) backstay.VolumeID {
	if s.path == "" {
		return of + ":/"
	}
	return of + ":" + backstay.VolumeID(strings.ReplaceAll(text(s.path), " ", "_"))
}

// gatherBtrfs makes one volume of the members of each Btrfs.
func (s *Set) gatherBtrfs() {
	first := map[string]*node{}
	for _, n := range s.nodes {
		if n.hidden || n.content.Type != probe.TypeBtrfs {
			continue
		}
		f := first[n.content.Group]
		switch {
		case f == nil:
			first[n.content.Group] = n
		case f.content.Part == n.content.Part || slices.ContainsFunc(f.others, func(o *node) bool { return o.content.Part == n.content.Part }):
			// The kernel takes the second one for the first under another name.
			n.content.Class = probe.Refused
			n.reason = fmt.Sprintf("it is a copy of %s with the same identity: only one of them can be read at a time", f.id)
		default:
			n.hidden = true
			f.others = append(f.others, n)
			f.disks = union(f.disks, n.disks)
		}
	}
}

const (
	btrfsScanDevice = 0x50009404
	btrfsTreeSearch = 0xD0009411
	btrfsLookup     = 0xD0009412
)

// registerMembers tells the kernel of the further members of a Btrfs.
func registerMembers(n *node) error {
	if len(n.others) == 0 {
		return nil
	}
	control, err := os.OpenFile("/dev/btrfs-control", os.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer control.Close()
	for _, o := range n.others {
		var arg struct {
			fd   int64
			name [4088]byte
		}
		copy(arg.name[:len(arg.name)-1], o.device)
		if err := ioctl(int(control.Fd()), btrfsScanDevice, unsafe.Pointer(&arg)); err != nil {
			return fmt.Errorf("register a member: %w", err)
		}
	}
	return nil
}

// listSubvolumes finds the subvolumes of a mounted Btrfs, those that are no
// snapshots first.
func (s *Set) listSubvolumes(ctx context.Context, n *node) {
	if n.listed {
		return
	}
	n.listed = true
	m := s.mounts.mount(ctx, n)
	if m.err != nil {
		return
	}
	top, err := os.Open(m.path)
	if err != nil {
		return
	}
	defer top.Close()
	all, fallback, err := readSubvolumes(top)
	if err != nil {
		n.reason = joined(n.reason, "its subvolumes could not be listed ("+plain(err)+"); they are folders of it")
		return
	}
	if i := slices.IndexFunc(all, func(v subvolume) bool { return v.id == fallback }); i >= 0 {
		// What is mounted by default is the volume; the whole gets a name of its own.
		n.start = all[i].path
		all = append([]subvolume{{}}, slices.Delete(all, i, i+1)...)
	}
	slices.SortStableFunc(all, func(a, b subvolume) int {
		return cmp.Or(cmp.Compare(fmt.Sprint(a.snapshot), fmt.Sprint(b.snapshot)), cmp.Compare(a.path, b.path))
	})
	n.subvolumes = all[:min(len(all), maxSubvolumes)]
	n.more = len(all) - len(n.subvolumes)
}

// rootRef is where a subvolume hangs in another one.
type rootRef struct {
	parent, folder uint64
	name           string
}

// maxRoots bounds how many subvolumes are looked at.
const maxRoots = 20_000

// readSubvolumes reads the tree of roots: all subvolumes, and the one that is
// mounted by default.
func readSubvolumes(top *os.File) (all []subvolume, fallback uint64, err error) {
	refs, snapshots := map[uint64]rootRef{}, map[uint64]bool{}
	var order []uint64
	err = searchRoots(top, 6, 6, func(_ uint64, kind uint32, _ uint64, data []byte) {
		// A folder's entry: a key (17 bytes), a transaction, two lengths, a type, the name.
		if kind == 84 && len(data) >= 30 && strings.HasPrefix(string(data[30:]), "default") {
			fallback = binary.LittleEndian.Uint64(data)
		}
	})
	if err != nil {
		return nil, 0, err
	}
	err = searchRoots(top, 256, 1<<48, func(id uint64, kind uint32, offset uint64, data []byte) {
		switch {
		case kind == 132 && len(data) >= 279: // ROOT_ITEM: the parent's UUID is at 263
			snapshots[id] = strings.Trim(string(data[263:279]), "\x00") != ""
		case kind == 144 && len(data) > 18 && len(refs) < maxRoots: // ROOT_BACKREF
			size := int(binary.LittleEndian.Uint16(data[16:]))
			if 18+size <= len(data) {
				refs[id] = rootRef{offset, binary.LittleEndian.Uint64(data), string(data[18 : 18+size])}
				order = append(order, id)
			}
		}
	})
	if err != nil {
		return nil, 0, err
	}
	for _, id := range order {
		if path, ok := rootPath(top, refs, id); ok {
			all = append(all, subvolume{id, path, snapshots[id]})
		}
	}
	return all, fallback, nil
}

// rootPath returns the path of a subvolume from the top.
func rootPath(top *os.File, refs map[uint64]rootRef, id uint64) (string, bool) {
	path := ""
	for depth := 0; id != 5; depth++ {
		ref, ok := refs[id]
		if !ok || depth > 32 {
			return "", false
		}
		var arg struct {
			tree, object uint64
			name         [4080]byte
		}
		arg.tree, arg.object = ref.parent, ref.folder
		if err := ioctl(int(top.Fd()), btrfsLookup, unsafe.Pointer(&arg)); err != nil {
			return "", false
		}
		folder, _, _ := strings.Cut(string(arg.name[:]), "\x00")
		path = folder + ref.name + "/" + path
		id = ref.parent
	}
	return strings.TrimSuffix(path, "/"), true
}

// searchRoots calls fn for the items of the tree of roots whose object lies in a
// range.
func searchRoots(top *os.File, from, to uint64, fn func(object uint64, kind uint32, offset uint64, data []byte)) error {
	var arg struct {
		tree, minObject, maxObject, minOffset, maxOffset, minTransaction, maxTransaction uint64
		minType, maxType, items, _                                                       uint32
		_                                                                                [4]uint64
		buf                                                                              [3992]byte
	}
	minObject, minType, minOffset := from, uint32(0), uint64(0)
	for range maxRoots {
		arg.tree, arg.minObject, arg.maxObject = 1, minObject, to
		arg.minType, arg.maxType, arg.minOffset, arg.maxOffset = minType, 255, minOffset, ^uint64(0)
		arg.minTransaction, arg.maxTransaction, arg.items = 0, ^uint64(0), 4096
		if err := ioctl(int(top.Fd()), btrfsTreeSearch, unsafe.Pointer(&arg)); err != nil {
			return err
		}
		if arg.items == 0 {
			return nil
		}
		at := 0
		for range arg.items {
			if at+32 > len(arg.buf) {
				return nil
			}
			head := arg.buf[at : at+32]
			object, offset := binary.LittleEndian.Uint64(head[8:]), binary.LittleEndian.Uint64(head[16:])
			kind, size := binary.LittleEndian.Uint32(head[24:]), int(binary.LittleEndian.Uint32(head[28:]))
			at += 32
			if at+size > len(arg.buf) {
				return nil
			}
			fn(object, kind, offset, arg.buf[at:at+size])
			at += size
			minObject, minType, minOffset = object, kind, offset
		}
		switch {
		case minOffset < ^uint64(0):
			minOffset++
		case minType < 255:
			minType, minOffset = minType+1, 0
		default:
			minObject, minType, minOffset = minObject+1, 0, 0
		}
	}
	return nil
}
