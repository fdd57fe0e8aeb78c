package volumes

import (
	"cmp"
	"context"
	"io"
	"path"
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// guest is what the guest itself says of its volumes.
type guest struct {
	root   backstay.VolumeID // that of its fstab; "" if none was found
	table  []entry           // of its fstab
	crypt  map[string]string // of its crypttab: name to device
	places map[backstay.VolumeID]string
}

// entry is a line of an fstab.
type entry struct {
	device, place, kind string
	options             []string
}

// maxCandidates is how many file systems are mounted in search of an fstab.
const maxCandidates = 16

// findMountPoints finds the guest's fstab and says where it puts the volumes.
// Subvolumes are listed here as well, since they may hold it.
func (s *Set) findMountPoints(ctx context.Context) {
	candidates := slices.DeleteFunc(slices.Clone(s.nodes), func(n *node) bool {
		return n.hidden || n.content.Class != probe.Files || !slices.Contains([]string{"ext2", "ext3", "ext4", "xfs", "btrfs"}, n.content.Type)
	})
	slices.SortStableFunc(candidates, func(a, b *node) int { return cmp.Compare(rootless(a), rootless(b)) })
	for i, n := range candidates {
		if ctx.Err() != nil {
			return
		}
		if n.content.Type == probe.TypeBtrfs {
			s.listSubvolumes(ctx, n)
		}
		if s.guest.root == "" && i < maxCandidates {
			s.askGuest(ctx, n)
		}
	}
	s.guest.places = s.resolve()
}

// rootless sorts those last that were mounted elsewhere than at the root.
func rootless(n *node) int {
	switch n.content.LastMounted {
	case "/", "/root", "/sysroot", "/target":
		return 0
	case "":
		return 1
	}
	return 2
}

// askGuest reads the fstab of a file system, if it has one.
func (s *Set) askGuest(ctx context.Context, n *node) {
	if n.asked {
		return
	}
	n.asked = true
	m := s.mounts.mount(ctx, n)
	if m.err != nil {
		return
	}
	roots := []subvolume{{path: n.start}}
	for _, sub := range n.subvolumes {
		if !sub.snapshot && len(roots) < maxCandidates {
			roots = append(roots, sub)
		}
	}
	for i, r := range roots {
		table := readText(m.path, path.Join(r.path, "etc/fstab"), r.path)
		if table == "" {
			continue
		}
		s.guest.root = n.id
		if i > 0 {
			s.guest.root = r.volume(n.id)
		}
		s.guest.table = parseTable(table)
		s.guest.crypt = parseCrypt(readText(m.path, path.Join(r.path, "etc/crypttab"), r.path))
		return
	}
}

// readText reads a small file of a root; "" if there is none. Links lead nowhere
// out of the root.
func readText(mount, name, root string) string {
	dir, err := below(mount, root, 0)
	if err != nil {
		return ""
	}
	defer dir.Close()
	file, err := below("/proc/self/fd/"+strconv.Itoa(int(dir.Fd())), strings.TrimPrefix(name, root), 0)
	if err != nil {
		return ""
	}
	defer file.Close()
	if st, err := file.Stat(); err != nil || !st.Mode().IsRegular() {
		return ""
	}
	data, err := io.ReadAll(io.LimitReader(file, 256<<10))
	if err != nil {
		return ""
	}
	return string(data)
}

// parseTable reads an fstab; see fstab(5).
func parseTable(text string) []entry {
	var table []entry
	for line := range strings.Lines(text) {
		f := strings.Fields(line)
		if len(f) < 3 || strings.HasPrefix(f[0], "#") {
			continue
		}
		e := entry{device: unescape(f[0]), place: path.Clean(unescape(f[1])), kind: f[2]}
		if len(f) > 3 {
			e.options = strings.Split(f[3], ",")
		}
		if strings.HasPrefix(e.place, "/") && e.kind != "swap" && !slices.Contains(e.options, "bind") && !slices.Contains(e.options, "rbind") {
			table = append(table, e)
		}
	}
	return table
}

// unescape replaces the octal numbers that stand for spaces and the like.
func unescape(s string) string {
	var b strings.Builder
	for i := 0; i < len(s); i++ {
		if s[i] == '\\' && i+3 < len(s) {
			if n, err := strconv.ParseUint(s[i+1:i+4], 8, 8); err == nil {
				b.WriteByte(byte(n))
				i += 3
				continue
			}
		}
		b.WriteByte(s[i])
	}
	return b.String()
}

// parseCrypt reads a crypttab: the names of opened volumes and what they are on.
func parseCrypt(text string) map[string]string {
	crypt := map[string]string{}
	for line := range strings.Lines(text) {
		if f := strings.Fields(line); len(f) > 1 && !strings.HasPrefix(f[0], "#") {
			crypt[f[0]] = f[1]
		}
	}
	return crypt
}

// resolve says which volume is where. Of two for one place, or two places for one
// volume, the first counts.
func (s *Set) resolve() map[backstay.VolumeID]string {
	places, taken := map[backstay.VolumeID]string{}, map[string]bool{}
	put := func(id backstay.VolumeID, place string) {
		if id != "" && places[id] == "" && !taken[place] {
			places[id], taken[place] = place, true
		}
	}
	if s.guest.root == "" {
		return places
	}
	put(s.guest.root, "/")
	for _, e := range s.guest.table {
		if n := s.named(e.device, 0); n != nil && n.content.Class == probe.Files {
			put(n.mountedAs(e.options), e.place)
		}
	}
	return places
}

// mountedAs is the volume that options of a mount choose; "" if it is not listed.
func (n *node) mountedAs(options []string) backstay.VolumeID {
	for _, o := range options {
		key, value, _ := strings.Cut(o, "=")
		if n.content.Type != probe.TypeBtrfs || key != "subvol" && key != "subvolid" {
			continue
		}
		value = strings.Trim(value, "/")
		for _, sub := range append([]subvolume{{id: 0, path: n.start}}, n.subvolumes...) {
			if key == "subvol" && sub.path == value || key == "subvolid" && sub.id != 0 && strconv.FormatUint(sub.id, 10) == value {
				if sub.id == 0 && sub.path == n.start {
					return n.id
				}
				return sub.volume(n.id)
			}
		}
		if key == "subvol" {
			return ""
		}
	}
	return n.id
}

// named returns the node that a device of an fstab is; nil if none is. depth counts
// how often a name led to another one.
func (s *Set) named(device string, depth int) *node {
	key, value, _ := strings.Cut(device, "=")
	value = strings.Trim(value, `"'`)
	if rest, ok := strings.CutPrefix(device, "/dev/disk/by-"); ok {
		key, value, _ = strings.Cut(rest, "/")
		value = unhex(value)
	}
	var match func(*node) bool
	switch strings.ToUpper(key) {
	case "UUID":
		match = func(n *node) bool { return strings.EqualFold(n.content.UUID, value) }
	case "LABEL":
		match = func(n *node) bool { return n.content.Label == value }
	case "PARTUUID":
		match = func(n *node) bool { return strings.EqualFold(n.part.UUID, value) }
	case "PARTLABEL":
		match = func(n *node) bool { return n.part.Name == value }
	default:
		name, ok := strings.CutPrefix(device, "/dev/")
		if !ok || depth > 1 {
			return nil
		}
		if mapper, ok := strings.CutPrefix(name, "mapper/"); ok {
			if under := s.guest.crypt[mapper]; under != "" {
				return s.named(under, depth+1)
			}
			match = func(n *node) bool { return n.logical != "" && dmName(n.group)+"-"+dmName(n.logical) == mapper }
			break
		}
		match = func(n *node) bool {
			return string(n.id) == name || n.group != "" && n.group+"/"+n.logical == name || n.array != "" && "md/"+strings.TrimPrefix(n.array, "md") == name
		}
	}
	if value == "" && key != device {
		return nil
	}
	return s.visible(match)
}

// visible returns the first node that matches, or the opened content of one that
// does.
func (s *Set) visible(match func(*node) bool) *node {
	for _, n := range s.nodes {
		if !match(n) {
			continue
		}
		if !n.hidden {
			return n
		}
		if o := s.find(n.id); o != nil {
			return o
		}
	}
	return nil
}

// dmName is how device mapper writes a name: hyphens are doubled.
func dmName(name string) string { return strings.ReplaceAll(name, "-", "--") }

// unhex replaces udev's \xNN.
func unhex(s string) string {
	p, err := backstay.ParseFilePath(s)
	if err != nil {
		return s
	}
	return string(p)
}
