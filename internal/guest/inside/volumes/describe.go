package volumes

import (
	"cmp"
	"errors"
	"fmt"
	"os"
	"slices"
	"strings"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// volumesOf describes a node: one volume, or several for the subvolumes of Btrfs.
func (s *Set) volumesOf(n *node) []backstay.Volume {
	c := n.content
	v := backstay.Volume{
		ID: n.id, FileSystem: c.Type, Label: c.Label, UUID: c.UUID, Size: n.size, Used: min(c.Used, n.size),
		Disks: n.disks, On: n.on, Reason: joined(c.Reason, n.reason),
	}
	if v.On == nil {
		v.On = []string{}
	}
	switch c.Class {
	case probe.Files:
		v.Kind = backstay.VolumeFiles
	case probe.Swap:
		v.Kind = backstay.VolumeSwap
	case probe.Empty:
		v.Kind = backstay.VolumeEmpty
	case probe.Locked:
		v.Kind = backstay.VolumeLocked
		v.Keys = []backstay.VolumeKey{backstay.KeyPassphrase, backstay.KeyFile}
		if c.Type == probe.TypeBitLocker {
			v.Keys = []backstay.VolumeKey{backstay.KeyRecovery, backstay.KeyPassphrase, backstay.KeyFile}
		}
	default:
		v.Kind = backstay.VolumeUnread
		if v.Reason == "" {
			v.Reason = "what it holds is not known"
		}
	}
	if c.Class != probe.Files {
		return []backstay.Volume{v}
	}
	v.MountPoint = s.guest.places[n.id]
	if m := s.mounts.of(n); m != nil {
		if m.err != nil {
			v.Kind, v.Reason = backstay.VolumeUnread, joined(v.Reason, m.why)
			return []backstay.Volume{v}
		}
		v.Reason, v.Used = joined(v.Reason, m.note), m.used()
	}
	if n.more > 0 {
		v.Reason = joined(v.Reason, fmt.Sprintf("%d more subvolumes are not shown as volumes; they are folders of it", n.more))
	}
	all := []backstay.Volume{v}
	for _, sub := range n.subvolumes {
		w := v
		w.ID, w.Reason = sub.volume(n.id), ""
		w.MountPoint = s.guest.places[w.ID]
		w.On = append(slices.Clone(v.On), "subvolume "+text(sub.path))
		w.Label = c.Label
		all = append(all, w)
	}
	return all
}

// byDisk sorts volumes by their disks, and leaves those of one disk in their order.
func byDisk(a, b backstay.Volume) int {
	return cmp.Or(cmp.Compare(len(a.Disks[0]), len(b.Disks[0])), cmp.Compare(a.Disks[0], b.Disks[0]))
}

// joined puts reasons together as one sentence.
func joined(parts ...string) string {
	var out []string
	for _, p := range parts {
		if p != "" && !slices.Contains(out, p) {
			out = append(out, p)
		}
	}
	return strings.Join(out, "; ")
}

// plain takes the name of the operation and of the device from an error.
func plain(err error) string {
	var path *os.PathError
	if errors.As(err, &path) {
		return path.Err.Error()
	}
	return err.Error()
}

// maxText bounds what of a guest's own names goes into a reason or a label.
const maxText = 200

// text makes a line for people of what a guest or a program wrote.
func text(s string) string {
	s = strings.Map(func(r rune) rune {
		if !unicode.IsPrint(r) {
			return '\uFFFD'
		}
		return r
	}, strings.TrimSpace(s))
	if len(s) > maxText {
		s = strings.ToValidUTF8(s[:maxText], "") + "…"
	}
	return s
}
