// Package volumes finds the volumes on the disks of a small machine, through
// partitions, arrays, volume groups and encryption, and mounts them. Everything it
// reads was written by whoever owns the guest; it runs where nothing can be lost: as
// root of a machine of its own, whose writes go to an overlay that is thrown away.
package volumes

import (
	"context"
	"fmt"
	"os"
	"slices"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
	"github.com/backstay/backstay/internal/guest/wire"
)

// Disk is a disk of the machine.
type Disk struct {
	Device string // its name below /dev
	Target backstay.DiskTarget
	Size   int64 // bytes
	// Opens is the volume of which it is the opened content; "" for a disk of the point.
	Opens backstay.VolumeID
}

// Set is all that is known of the disks and volumes of a machine.
type Set struct {
	load func(modules ...string) error // loads modules of the kernel

	mu      sync.Mutex
	pending []Disk  // plugged in, and not looked at yet; guarded by mu
	nodes   []*node // guarded by mu
	arrays  map[string]bool
	groups  map[string]bool // physical volumes that LVM was told of, by device
	renamed map[string]bool // volume groups that got another name
	lost    int             // partitions and the like beyond MaxVolumes
	guest   guest
	mounts  mounts
	numbers int // names given to devices of our own
	looks   int // devices looked at
}

// MaxVolumes is the most volumes, with all that they are stacked on, that a point
// may have; of more, the first are shown.
const MaxVolumes = 512

// New returns a set of a machine without disks. load loads modules of the kernel
// with what they need.
func New(load func(modules ...string) error) *Set {
	s := &Set{load: load, arrays: map[string]bool{}, groups: map[string]bool{}, renamed: map[string]bool{}}
	s.mounts.load = load
	return s
}

// Add tells of a disk that was plugged in; Scan looks at it.
func (s *Set) Add(d Disk) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.pending = append(s.pending, d)
}

// node is a block device and what it holds.
type node struct {
	id      backstay.VolumeID
	device  string // path
	size    int64  // bytes
	disks   []backstay.DiskTarget
	on      []string
	content probe.Content
	part    probe.Partition // of a partition
	span    span
	reason  string // beside that of the content
	// hidden is set where others show what it holds: its partitions, the volumes of its
	// group, what was opened.
	hidden bool
	// group is the volume group of a logical volume, logical its name there and logicalID
	// what LVM knows it by; array is the name of an array.
	group, logical, logicalID, array string

	others     []*node     // further members of a Btrfs
	subvolumes []subvolume // of Btrfs
	more       int         // subvolumes beyond those
	start      string      // path of the subvolume that is mounted by default; "" for the whole
	listed     bool        // its subvolumes were looked for
	asked      bool        // it was asked for the guest's fstab
}

// span is where a node lies on one disk; Length 0 means that it does not lie on a
// disk in one run.
type span struct {
	disk           backstay.DiskTarget
	offset, length int64
}

// Scan looks at what is new and returns all volumes.
func (s *Set) Scan(ctx context.Context) (wire.Scanned, error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	pending := s.pending
	s.pending = nil
	for i, d := range pending {
		if err := s.addDisk(ctx, d); err != nil {
			// The others are looked at by the next call.
			s.pending = pending[i+1:]
			return wire.Scanned{}, err
		}
	}
	// What is assembled may be a part of something else.
	for {
		before := s.looks
		if err := s.assemble(ctx); err != nil {
			return wire.Scanned{}, err
		}
		if err := s.activate(ctx); err != nil {
			return wire.Scanned{}, err
		}
		if s.looks == before {
			break
		}
	}
	s.gatherBtrfs()
	s.findMountPoints(ctx)
	return s.scanned(ctx)
}

// addDisk looks at a disk: one of the point, or the opened content of a volume,
// which takes that volume's place.
func (s *Set) addDisk(ctx context.Context, d Disk) error {
	n := &node{
		id: backstay.VolumeID(d.Target), device: "/dev/" + d.Device, size: d.Size,
		disks: []backstay.DiskTarget{d.Target}, span: span{d.Target, 0, d.Size},
	}
	if d.Opens != "" {
		locked := s.find(d.Opens)
		if locked == nil || locked.content.Class != probe.Locked || locked.hidden {
			return backstay.Errorf(backstay.CodeUnknownVolume, "there is no locked volume %q to open", d.Opens)
		}
		n = locked.opened(n.device, d.Size)
	}
	return s.look(ctx, n)
}

// opened hides a locked node and returns the one that takes its place.
func (n *node) opened(device string, size int64) *node {
	n.hidden = true
	how := n.content.Type
	if how == probe.TypeLUKS {
		how = "LUKS"
	}
	return &node{id: n.id, device: device, size: size, disks: n.disks, on: append(slices.Clone(n.on), how), part: n.part}
}

// look finds out what a device holds, and adds it with its partitions.
func (s *Set) look(ctx context.Context, n *node) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	if len(s.nodes) >= MaxVolumes {
		s.lost++
		return nil
	}
	s.looks++
	s.nodes = append(s.nodes, n)
	file, err := os.Open(n.device)
	if err != nil {
		n.content = probe.Content{Class: probe.Unknown}
		n.reason = "it cannot be opened: " + plain(err)
		return nil
	}
	defer file.Close()
	table := probe.Table{}
	if n.part.Number == 0 {
		table, err = probe.ReadTable(file, n.size)
	}
	if err == nil && table.Kind != "" {
		n.hidden = true
		return s.addPartitions(ctx, n, table)
	}
	if err == nil {
		n.content, err = probe.Identify(file, n.size)
	}
	if err != nil {
		n.content = probe.Content{Class: probe.Unknown}
		n.reason = "it cannot be read: " + plain(err)
		return nil
	}
	if n.content.Class == probe.Unknown || n.content.Class == probe.Empty {
		if purpose := n.part.Purpose(); purpose != "" {
			n.content.Class, n.content.Reason = probe.Refused, purpose
		}
	}
	return nil
}

// addPartitions adds the partitions of a disk.
func (s *Set) addPartitions(ctx context.Context, disk *node, table probe.Table) error {
	for _, p := range table.Partitions {
		n := &node{
			id: partName(disk.id, p.Number), size: p.Length, disks: disk.disks, part: p,
			on: append(slices.Clone(disk.on), fmt.Sprintf("partition %d", p.Number)),
		}
		if disk.span.length > 0 {
			n.span = span{disk.span.disk, disk.span.offset + p.Start, p.Length}
		}
		if table.Backup {
			n.reason = "the partition table was read from its copy at the disk's end: the first one is damaged"
		}
		device, err := s.partition(ctx, disk, p)
		if err != nil {
			n.content = probe.Content{Class: probe.Unknown}
			n.reason = "the partition cannot be used: " + plain(err)
			s.nodes = append(s.nodes, n)
			continue
		}
		n.device = device
		if err := s.look(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

// partName is how Linux names a partition of a disk.
func partName(disk backstay.VolumeID, number int) backstay.VolumeID {
	if last := disk[len(disk)-1]; last >= '0' && last <= '9' {
		return backstay.VolumeID(fmt.Sprintf("%sp%d", disk, number))
	}
	return backstay.VolumeID(fmt.Sprintf("%s%d", disk, number))
}

// find returns the node that a volume is; nil if there is none.
func (s *Set) find(id backstay.VolumeID) *node {
	// The last one is the opened content of those before it.
	for _, n := range slices.Backward(s.nodes) {
		if n.id == id && !n.hidden {
			return n
		}
	}
	return nil
}

// scanned is the answer to those who asked for volumes.
func (s *Set) scanned(ctx context.Context) (wire.Scanned, error) {
	var out wire.Scanned
	for _, n := range s.nodes {
		if n.hidden {
			continue
		}
		out.Volumes = append(out.Volumes, s.volumesOf(n)...)
		if n.content.Class != probe.Locked {
			continue
		}
		lock, err := n.lock()
		if err != nil {
			return wire.Scanned{}, err
		}
		out.Locks = append(out.Locks, lock)
	}
	slices.SortStableFunc(out.Volumes, byDisk)
	if n := len(out.Volumes); s.lost > 0 && n > 0 {
		last := &out.Volumes[n-1]
		last.Reason = joined(last.Reason, fmt.Sprintf("%d more volumes of this point are not shown", s.lost))
	}
	return out, ctx.Err()
}

// lock says where a locked node lies.
func (n *node) lock() (wire.Lock, error) {
	l := wire.Lock{Volume: n.id, Disk: n.disks[0]}
	// Only LUKS is opened outside.
	if n.content.Type != probe.TypeLUKS {
		return l, nil
	}
	if n.span.length > 0 {
		l.Disk, l.Offset, l.Length = n.span.disk, n.span.offset, n.span.length
		return l, nil
	}
	file, err := os.Open(n.device)
	if err != nil {
		return l, fmt.Errorf("read header of %s: %w", n.id, err)
	}
	defer file.Close()
	l.Header = make([]byte, n.content.Header)
	if _, err := file.ReadAt(l.Header, 0); err != nil {
		return l, fmt.Errorf("read header of %s: %w", n.id, err)
	}
	return l, nil
}
