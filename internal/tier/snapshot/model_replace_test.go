package snapshot

import (
	"fmt"
	"maps"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

// replacement is one time that the VM's disks were replaced by those of a point.
type replacement struct {
	job      backstay.JobID
	old, new map[backstay.DiskTarget]string // the files that it wrote to before and after
	had      disks
	// done: the VM was put on the new files.
	done bool
}

func (m *model) sources() map[backstay.DiskTarget]string {
	m.t.Helper()
	vms, err := m.hv.VMs(background)
	must(m.t, err)
	all := map[backstay.DiskTarget]string{}
	for _, vm := range vms {
		for _, disk := range vm.Disks {
			if vm.ID == vmID {
				all[disk.Target] = disk.Source
			}
		}
	}
	return all
}

// put lets the VM use other files, all at once.
func (m *model) put(files map[backstay.DiskTarget]string) error {
	d, err := m.hv.Domain(background, vmID)
	if err != nil {
		return err
	}
	xml := strings.ReplaceAll(d.InactiveXML, "\"", "'")
	for target, now := range m.sources() {
		xml = strings.ReplaceAll(xml, "type='"+formatName(now)+"'/><source file='"+now+"'",
			"type='"+formatName(files[target])+"'/><source file='"+files[target]+"'")
	}
	if err := m.hv.Redefine(background, vmID, xml); err != nil {
		return err
	}
	if !maps.Equal(m.sources(), files) {
		m.t.Errorf("the VM is on %v and not on %v", m.sources(), files)
	}
	return nil
}

func formatName(file string) string {
	if strings.HasSuffix(file, ".raw") {
		return "raw"
	}
	return "qcow2"
}

func (m *model) replaceOne() error {
	id := m.any()
	if id == "" || m.maybe[id] || len(m.replaced) >= 3 || len(m.points[id]) != 2 {
		return nil
	}
	if err := m.hv.Destroy(background, vmID); err != nil {
		return err
	}
	m.serial++
	r := replacement{job: backstay.JobID(fmt.Sprintf("replace%d", m.serial)), old: m.sources(), new: map[backstay.DiskTarget]string{}, had: m.before[vmID]}
	fork := ForkRequest{Job: r.job, Point: id, VM: vmID}
	for target := range r.old {
		r.new[target] = m.disk(fmt.Sprintf("replaced%d-%s.qcow2", m.serial, target))
		fork.Disks = append(fork.Disks, ForkDisk{Target: target, Path: r.new[target]})
	}
	m.replaced = append(m.replaced, r)
	if err := m.tier.Fork(background, fork); err != nil {
		return err
	}
	var old []string
	for _, file := range r.old {
		old = append(old, file)
	}
	if err := m.tier.KeepFor(r.job, old); err != nil {
		return err
	}
	if err := m.put(r.new); err != nil {
		return err
	}
	m.before[vmID] = m.points[id]
	m.replaced[len(m.replaced)-1].done = true
	return m.tier.RemoveUser(UserRestore, string(r.job))
}

// settleReplaced ends what a crash cut off as a journal would have it: by the
// files that the VM is on.
func (m *model) settleReplaced() {
	m.t.Helper()
	kept := m.replaced[:0]
	for _, r := range m.replaced {
		if r.done {
			must(m.t, m.tier.RemoveUser(UserRestore, string(r.job)))
			kept = append(kept, r)
			continue
		}
		for _, kind := range []UserKind{UserRestore, UserUndo} {
			_, err := m.tier.EndUse(background, kind, r.job)
			must(m.t, err)
		}
	}
	m.replaced = kept
}

func (m *model) undoOne() error {
	if len(m.replaced) == 0 {
		return nil
	}
	r := m.replaced[len(m.replaced)-1]
	if err := m.hv.Destroy(background, vmID); err != nil {
		return err
	}
	by := "undo-" + r.job
	var now []string
	for _, file := range m.sources() {
		now = append(now, file)
	}
	err := m.tier.KeepFor(by, now)
	if err == nil {
		err = m.put(r.old)
	}
	if err == nil {
		m.before[vmID] = r.had
		m.replaced = slices.Delete(m.replaced, len(m.replaced)-1, len(m.replaced))
	}
	m.restart()
	for _, job := range []backstay.JobID{by, r.job} {
		if job == r.job && err != nil {
			break
		}
		_, endErr := m.tier.EndUse(background, UserUndo, job)
		must(m.t, endErr)
	}
	m.crashed = m.crashed || err != nil
	return err
}

// endUndoOne is what happens when the oldest replacement cannot be undone any more.
func (m *model) endUndoOne() error {
	if len(m.replaced) == 0 {
		return nil
	}
	_, err := m.tier.EndUse(background, UserUndo, m.replaced[0].job)
	if err == nil {
		m.replaced = m.replaced[1:]
	}
	return err
}
