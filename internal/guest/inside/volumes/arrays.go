package volumes

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// assemble starts the arrays whose members were found since it was called last.
func (s *Set) assemble(ctx context.Context) error {
	members := map[string][]*node{}
	var order []string
	for _, n := range s.nodes {
		if n.content.Type == probe.TypeRAID && n.content.Class == probe.Member && !s.arrays[n.content.Group] {
			if members[n.content.Group] == nil {
				order = append(order, n.content.Group)
			}
			members[n.content.Group] = append(members[n.content.Group], n)
		}
	}
	for _, group := range order {
		s.arrays[group] = true
		if err := s.array(ctx, members[group]); err != nil {
			return err
		}
	}
	return nil
}

// array starts one array.
func (s *Set) array(ctx context.Context, members []*node) error {
	device, degraded, err := s.startArray(ctx, members)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		for _, m := range members {
			m.reason = arrayReason(members, err)
		}
		return nil
	}
	size, err := sizeOf(device)
	if err != nil {
		return fmt.Errorf("open array: %w", err)
	}
	label := arrayName(members[0].content.Label)
	n := &node{id: s.free(label), device: device, size: size, array: label}
	for _, m := range members {
		m.hidden = true
		n.disks = union(n.disks, m.disks)
	}
	level := attribute(device, "level")
	n.on = append(agreed(members), strings.ToUpper(level)+" "+string(n.id))
	if degraded {
		n.reason = fmt.Sprintf("its array (%s) is read without members that are missing or out of date", level)
	}
	return s.look(ctx, n)
}

// startArray starts an array without writing to it, and so that it is not brought
// up to date behind what is read: that would read all of it.
func (s *Set) startArray(ctx context.Context, members []*node) (device string, degraded bool, err error) {
	if err := s.load("md_mod", "raid0", "raid1", "raid10", "raid456", "linear", "multipath"); err != nil {
		return "", false, err
	}
	if err := os.MkdirAll("/run/mdadm", 0o700); err != nil {
		return "", false, err
	}
	if err := os.WriteFile("/sys/module/md_mod/parameters/start_ro", []byte("1"), 0); err != nil {
		return "", false, err
	}
	device = fmt.Sprintf("/dev/md%d", s.number())
	args := []string{"--assemble", "--run", "--config=none", device}
	for _, m := range members {
		args = append(args, m.device)
	}
	if _, _, err := (program{name: "mdadm", args: args}).run(ctx); err != nil {
		// What was put together in part would keep its members from others.
		_, _, _ = program{name: "mdadm", args: []string{"--stop", device}}.run(ctx)
		return "", false, err
	}
	// Arrays without redundancy have no such file.
	_ = os.WriteFile(filepath.Join("/sys/class/block", filepath.Base(device), "md/sync_action"), []byte("frozen"), 0)
	return device, number(filepath.Join("/sys/class/block", filepath.Base(device), "md/degraded")) > 0, nil
}

func arrayReason(members []*node, err error) string {
	reason := "its array could not be started"
	if want := members[0].content.Members; want > len(members) {
		reason += fmt.Sprintf(": the point holds %d of its %d members", len(members), want)
	}
	var f *failure
	if errors.As(err, &f) && f.lastLine() != "" {
		return reason + " (" + f.lastLine() + ")"
	}
	return reason + " (" + plain(err) + ")"
}

// arrayName is how the guest calls an array: "md0" or "md/data". The label is
// "host:0", "data", or empty.
func arrayName(label string) string {
	if _, name, ok := strings.Cut(label, ":"); ok {
		label = name
	}
	label = strings.Map(func(r rune) rune {
		if r == '/' || r == ' ' {
			return '_'
		}
		return r
	}, text(label))
	switch {
	case label == "":
		return "md"
	case strings.Trim(label, "0123456789") == "":
		return "md" + label
	}
	return "md/" + label
}

// attribute reads a word out of an array's folder in sysfs.
func attribute(device, name string) string {
	data, err := os.ReadFile(filepath.Join("/sys/class/block", filepath.Base(device), "md", name))
	if err != nil {
		return "array"
	}
	return strings.TrimSpace(string(data))
}

// number returns a number for a device of our own.
func (s *Set) number() int {
	s.numbers++
	return 100 + s.numbers
}

// free returns a volume's name that no other has.
func (s *Set) free(want string) backstay.VolumeID {
	want = strings.ReplaceAll(text(want), " ", "_")
	for id, n := want, 2; ; n++ {
		if !slices.ContainsFunc(s.nodes, func(o *node) bool { return string(o.id) == id }) {
			return backstay.VolumeID(id)
		}
		id = fmt.Sprintf("%s.%d", want, n)
	}
}

// agreed says what several members lie on, if they agree.
func agreed(members []*node) []string {
	for _, m := range members[1:] {
		if !slices.Equal(m.on, members[0].on) {
			return nil
		}
	}
	return slices.Clone(members[0].on)
}

func union(a, b []backstay.DiskTarget) []backstay.DiskTarget {
	for _, d := range b {
		if !slices.Contains(a, d) {
			a = append(slices.Clip(a), d)
		}
	}
	return a
}
