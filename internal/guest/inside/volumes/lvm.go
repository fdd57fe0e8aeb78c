package volumes

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/inside/probe"
)

// lvmConfig makes LVM do without everything that a small machine has not, and
// without what takes time.
const lvmConfig = `devices { use_devicesfile=0 obtain_device_list_from_udev=0 external_device_info_source="none" multipath_component_detection=0 md_component_detection=0 allow_mixed_block_sizes=1 %s }
activation { udev_sync=0 udev_rules=0 verify_udev_operations=0 monitoring=0 }
global { use_lvmpolld=0 use_lvmlockd=0 event_activation=0 thin_check_executable="" cache_check_executable="" thin_repair_executable="" cache_repair_executable="" }
backup { backup=0 archive=0 } log { level=0 }`

// row is one segment of a logical volume, as LVM reports it.
type row struct {
	Group     string `json:"vg_name"`
	GroupID   string `json:"vg_uuid"`
	Missing   string `json:"vg_missing_pv_count"`
	Name      string `json:"lv_name"`
	ID        string `json:"lv_uuid"`
	Attr      string `json:"lv_attr"`
	Size      string `json:"lv_size"`
	Active    string `json:"lv_active"`
	Minor     string `json:"lv_kernel_minor"`
	Pool      string `json:"pool_lv"`
	Origin    string `json:"origin"`
	Devices   string `json:"devices"`
	Segment   string `json:"segtype"`
	Health    string `json:"lv_health_status"`
	DMPath    string `json:"lv_dm_path"`
	GroupAttr string `json:"vg_attr"`
}

const columns = "vg_name,vg_uuid,vg_missing_pv_count,vg_attr,lv_name,lv_uuid,lv_attr,lv_size,lv_active,lv_kernel_minor,pool_lv,origin,devices,segtype,lv_health_status,lv_dm_path"

// activate makes the logical volumes available on those physical volumes that
// were found since it was called last.
func (s *Set) activate(ctx context.Context) error {
	var physical []*node
	fresh := false
	for _, n := range s.nodes {
		if n.content.Type == probe.TypeLVM {
			// LVM touches neither of two that are the same.
			if i := slices.IndexFunc(physical, func(o *node) bool { return o.content.UUID == n.content.UUID }); i >= 0 {
				n.reason = fmt.Sprintf("it is a copy of the physical volume on %s, of which only one can be read at a time", physical[i].id)
				continue
			}
			physical = append(physical, n)
			fresh = fresh || !s.groups[n.device]
			s.groups[n.device] = true
		}
	}
	if !fresh {
		return nil
	}
	rows, complaint, err := s.askLVM(ctx, physical)
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if err != nil {
		for _, n := range physical {
			n.reason = joined(n.reason, "LVM could not read it ("+text(err.Error())+")")
		}
		return nil
	}
	if err := s.addLogical(ctx, physical, rows, complaint); err != nil {
		return err
	}
	for _, n := range physical {
		if !n.hidden && n.reason == "" {
			n.reason = "its volume group has no logical volumes that could be read"
		}
	}
	return nil
}

// askLVM activates what can be and returns what there is.
func (s *Set) askLVM(ctx context.Context, physical []*node) (rows []row, complaint string, err error) {
	if err := s.load("dm_mod", "dm_snapshot", "dm_thin_pool", "dm_raid", "dm_mirror", "dm_cache", "dm_cache_smq", "dm_writecache", "dm_integrity"); err != nil {
		return nil, "", err
	}
	filter := make([]string, 0, len(physical)+1)
	for _, n := range physical {
		filter = append(filter, fmt.Sprintf("%q", "a|^"+n.device+"$|"))
	}
	config := fmt.Sprintf(lvmConfig, "filter=["+strings.Join(append(filter, `"r|.*|"`), ",")+"]")
	// It fails if it could not activate all; what it could tells the report.
	for {
		_, complaint, failed := program{name: "lvm", args: []string{"vgchange", "--config", config, "-ay", "-K", "-q", "--activationmode", "degraded"}}.run(ctx)
		out, _, err := program{name: "lvm", args: []string{"lvs", "--config", config, "-a", "--foreign", "--shared", "--reportformat", "json", "--units", "b", "--nosuffix", "-o", columns}}.run(ctx)
		if err != nil {
			return nil, complaint, errors.Join(err, failed)
		}
		if rows, err = parseRows(out); err != nil {
			return nil, complaint, err
		}
		renamed, err := s.renameGroup(ctx, config, rows)
		if err != nil || !renamed {
			return rows, complaint, err
		}
	}
}

// renameGroup gives a volume group another name, on the overlay, if one of its
// volumes is not active because those of a group of the same name are. It tells
// whether there was one.
func (s *Set) renameGroup(ctx context.Context, config string, rows []row) (bool, error) {
	active := map[string]string{} // names of device mapper to the group they belong to
	for _, r := range rows {
		if r.Active == "active" {
			active[r.Group+"/"+r.Name] = r.GroupID
		}
	}
	for _, r := range rows {
		other := active[r.Group+"/"+r.Name]
		if r.Active == "active" || other == "" || other == r.GroupID || r.Missing != "0" || s.renamed[r.GroupID] {
			continue
		}
		s.renamed[r.GroupID] = true
		name := fmt.Sprintf("%.100s.%d", r.Group, len(s.renamed)+1)
		// What cannot be renamed is shown as not active, with LVM's words.
		_, _, _ = program{name: "lvm", args: []string{"vgchange", "--config", config, "-an", "-q", "--select", "vg_uuid=" + r.GroupID}}.run(ctx)
		_, _, err := program{name: "lvm", args: []string{"vgrename", "--config", config, "-q", r.GroupID, name}}.run(ctx)
		return err == nil, ctx.Err()
	}
	return false, nil
}

func parseRows(out string) ([]row, error) {
	var report struct {
		Report []struct {
			LV []row `json:"lv"`
		} `json:"report"`
	}
	if err := json.Unmarshal([]byte(out), &report); err != nil {
		return nil, fmt.Errorf("read report of LVM: %w", err)
	}
	var rows []row
	for _, r := range report.Report {
		rows = append(rows, r.LV...)
	}
	return rows, nil
}

// addLogical adds the logical volumes that were not there yet.
func (s *Set) addLogical(ctx context.Context, physical []*node, rows []row, complaint string) error {
	uses := lies(rows, physical)
	for i, r := range rows {
		key := r.GroupID + "/" + r.Name
		if hidden(r) || i > 0 && rows[i-1].GroupID == r.GroupID && rows[i-1].Name == r.Name {
			continue
		}
		for _, p := range uses[key] {
			p.hidden = true
		}
		n := s.logicalNode(r, uses[key])
		old := slices.IndexFunc(s.nodes, func(o *node) bool { return o.logicalID == r.ID })
		if old >= 0 {
			// A disk that came later completed its group.
			if s.nodes[old].device != "" || n.device == "" {
				continue
			}
			s.nodes = slices.Delete(s.nodes, old, old+1)
			n.id = s.free(n.group + "/" + n.logical)
		}
		if n.device == "" {
			n.content = probe.Content{Class: probe.Refused}
			n.reason = inactive(r, complaint)
			s.nodes = append(s.nodes, n)
			continue
		}
		if err := s.look(ctx, n); err != nil {
			return err
		}
	}
	return nil
}

func (s *Set) logicalNode(r row, on []*node) *node {
	n := &node{group: r.Group, logical: r.Name, logicalID: r.ID, id: s.free(r.Group + "/" + r.Name)}
	n.size, _ = strconv.ParseInt(r.Size, 10, 64)
	for _, p := range on {
		n.disks = union(n.disks, p.disks)
	}
	if len(on) > 0 {
		n.on = agreed(on)
	}
	n.on = append(n.on, "LVM "+text(r.Group))
	if len(n.disks) == 0 {
		n.disks = []backstay.DiskTarget{""}
	}
	if minor, err := strconv.Atoi(r.Minor); err == nil && minor >= 0 && r.Active == "active" {
		n.device = fmt.Sprintf("/dev/dm-%d", minor)
	}
	if r.Health != "" && n.device != "" {
		n.reason = "LVM calls it " + text(r.Health)
	}
	return n
}

// hidden tells the rows that hold others: pools, their parts, and the like.
func hidden(r row) bool {
	// See "lv_attr" in lvs(8).
	return strings.HasPrefix(r.Name, "[") || r.Attr == "" || strings.ContainsRune("tTdDeiIlp", rune(r.Attr[0])) ||
		strings.HasSuffix(r.Segment, "-pool")
}

// inactive says why a logical volume was not activated.
func inactive(r row, complaint string) string {
	if r.Attr != "" && r.Attr[0] == 'v' || r.Segment == "vdo" {
		return "it is on VDO, which is not supported"
	}
	if n, _ := strconv.Atoi(r.Missing); n > 0 {
		return fmt.Sprintf("its volume group lacks %d of its physical volumes, which the point does not hold", n)
	}
	if len(r.GroupAttr) > 2 && r.GroupAttr[2] == 'x' {
		return "its volume group is exported"
	}
	lines := strings.Split(strings.TrimSpace(complaint), "\n")
	for _, line := range lines {
		if strings.Contains(line, r.Name) {
			return "LVM could not activate it (" + text(line) + ")"
		}
	}
	return "LVM could not activate it (" + text(lines[len(lines)-1]) + ")"
}

// lies tells for each logical volume on which physical ones it lies, through those
// that it is made of.
func lies(rows []row, physical []*node) map[string][]*node {
	parts := map[string][]string{}
	for _, r := range rows {
		key := r.GroupID + "/" + strings.Trim(r.Name, "[]")
		names := strings.Split(r.Devices, ",")
		for _, name := range append(names, r.Pool, r.Origin) {
			name, _, _ = strings.Cut(strings.TrimSpace(name), "(")
			if name != "" {
				parts[key] = append(parts[key], strings.Trim(name, "[]"))
			}
		}
	}
	out := map[string][]*node{}
	for key := range parts {
		group, _, _ := strings.Cut(key, "/")
		seen := map[string]bool{}
		for todo := []string{key}; len(todo) > 0; todo = todo[1:] {
			for _, name := range parts[todo[0]] {
				if seen[name] {
					continue
				}
				seen[name] = true
				if i := slices.IndexFunc(physical, func(p *node) bool { return p.device == name }); i >= 0 {
					out[key] = append(out[key], physical[i])
				} else {
					todo = append(todo, group+"/"+name)
				}
			}
		}
	}
	return out
}
