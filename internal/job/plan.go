package job

import (
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// decision says of one queued job that it may start, or what it waits for.
type decision struct {
	job     catalog.JobRecord
	waiting string // empty: start
}

// plan decides which of the queued jobs start now. active are all jobs that have
// not ended, oldest first.
func plan(active []catalog.JobRecord, limits Limits, canRun func(backstay.JobKind) bool) []decision {
	p := planner{
		vms:   map[backstay.VMID]catalog.JobRecord{},
		slots: map[string][]backstay.JobID{}, lines: map[string]bool{}, limits: limits,
	}
	for _, j := range active {
		if j.Job.State != backstay.JobQueued {
			p.holdVMs(j)
			p.holdSlots(j)
		}
	}
	var decisions []decision
	urgentFirst := slices.Clone(active)
	slices.SortStableFunc(urgentFirst, func(a, b catalog.JobRecord) int {
		switch {
		case a.Urgent == b.Urgent:
			return 0
		case a.Urgent:
			return -1
		}
		return 1
	})
	for _, j := range urgentFirst {
		if j.Job.State == backstay.JobQueued {
			decisions = append(decisions, decision{j, p.decide(j, canRun(j.Kind))})
		}
	}
	return decisions
}

// planner knows what is taken while the queue is gone through, oldest first.
type planner struct {
	limits Limits
	vms    map[backstay.VMID]catalog.JobRecord
	slots  map[string][]backstay.JobID
	lines  map[string]bool // slots for which an older job waits
}

// decide returns what the job waits for, and takes what it needs if it need not
// wait.
func (p *planner) decide(j catalog.JobRecord, canRun bool) (waiting string) {
	if !canRun {
		return fmt.Sprintf("waits for a server that runs %s jobs", j.Kind)
	}
	for _, vm := range j.VMs {
		if holder, taken := p.vms[vm]; taken {
			p.holdVMs(j)
			return waitsForVM(holder)
		}
	}
	for _, slot := range p.slotsOf(j) {
		if len(p.slots[slot.name]) < slot.limit {
			continue
		}
		waiting := fmt.Sprintf("waits for a slot %s: %d of %d taken by %s",
			slot.name, slot.limit, slot.limit, jobList(p.slots[slot.name]))
		p.holdVMs(j)
		if !p.lines[slot.name] {
			// The first in line keeps a slot of everything else that it needs:
			// younger jobs must not take those in turns for ever.
			p.lines[slot.name] = true
			p.holdSlots(j)
		}
		return waiting
	}
	p.holdVMs(j)
	p.holdSlots(j)
	return ""
}

func waitsForVM(holder catalog.JobRecord) string {
	if holder.Job.State == backstay.JobQueued {
		return fmt.Sprintf("waits for job %s (%s of %s), which is ahead of it for the same VM", holder.ID, holder.Kind, holder.Target)
	}
	return fmt.Sprintf("waits for job %s (%s of %s), which works on the same VM", holder.ID, holder.Kind, holder.Target)
}

// slot is a limited thing: a host or a vault.
type slot struct {
	name  string
	limit int
}

func (p *planner) slotsOf(j catalog.JobRecord) []slot {
	if j.Urgent {
		return nil
	}
	var slots []slot
	if j.Host != "" {
		slots = append(slots, slot{"on host " + string(j.Host), p.limits.PerHost})
	}
	if j.Vault != "" {
		slots = append(slots, slot{"in vault " + string(j.Vault), p.limits.PerVault})
	}
	return slots
}

// holdVMs takes the job's VMs that nobody has.
func (p *planner) holdVMs(j catalog.JobRecord) {
	if j.VMsFree {
		return
	}
	for _, vm := range j.VMs {
		if _, taken := p.vms[vm]; !taken {
			p.vms[vm] = j
		}
	}
}

func (p *planner) holdSlots(j catalog.JobRecord) {
	for _, s := range p.slotsOf(j) {
		p.slots[s.name] = append(p.slots[s.name], j.ID)
	}
}

// jobList names at most three jobs.
func jobList(ids []backstay.JobID) string {
	const most = 3
	var names []string
	for _, id := range ids[:min(len(ids), most)] {
		names = append(names, string(id))
	}
	list := "job " + strings.Join(names, ", job ")
	if len(ids) > most {
		list += fmt.Sprintf(" and %d more", len(ids)-most)
	}
	return list
}
