package index

import (
	"cmp"
	"slices"

	backstay "github.com/backstay/backstay"
)

// State is what is known when it is decided which points are listed next.
type State struct {
	Items    []backstay.ProtectedItem
	Policies []backstay.Policy
	Points   []backstay.RecoveryPoint
	Jobs     []backstay.Job
	// HostOf says on which host the VM of a job is; "" if the job is of none.
	HostOf func(backstay.Job) backstay.HostName
}

// Due are the points to list now: of each protected VM whose policy does not leave that
// out the newest point in its vault, if no index job was made for it yet. A host lists
// one point at a time, and none while another job is at work there or waits: a list is
// never what a backup waits for (I12).
func Due(s State) []backstay.RecoveryPoint {
	busy := map[backstay.HostName]bool{}
	tried := map[backstay.PointID]bool{}
	for _, j := range s.Jobs {
		if j.Kind == backstay.JobIndex {
			tried[j.Point] = true
		}
		if !j.State.Ended() {
			busy[s.HostOf(j)] = true
		}
	}
	off := map[backstay.PolicyName]bool{}
	for _, p := range s.Policies {
		off[p.Name] = p.NoIndex
	}
	var due []backstay.RecoveryPoint
	for _, item := range s.Items {
		var newest backstay.RecoveryPoint
		for _, p := range s.Points {
			if p.VM.UUID == item.VM.UUID && p.Vault == item.Vault && p.Has(backstay.VaultTier) && p.ID > newest.ID {
				newest = p
			}
		}
		if newest.ID != "" && !off[item.Policy] && !tried[newest.ID] {
			due = append(due, newest)
		}
	}
	slices.SortFunc(due, func(a, b backstay.RecoveryPoint) int { return cmp.Compare(a.ID, b.ID) })
	return slices.DeleteFunc(due, func(p backstay.RecoveryPoint) bool {
		was := busy[p.VM.Host]
		busy[p.VM.Host] = true
		return was
	})
}
