// Package reclaim gives back what no point of a vault needs any more: the part
// that knows the region. It decides which of the condemned packs may go now,
// from the leases in the catalogue and from the trash's delay, and walks the
// vault through its steps. What is needed and what is not is the vault's own
// business.
//
// It deletes nothing itself, and believes no time but the catalogue's.
package reclaim

import (
	"cmp"
	"encoding/json"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Known is what the region knows when it decides.
type Known struct {
	Records []catalog.TrashRecord
	// Running are the jobs that read or write the vault now.
	Running []backstay.Lease
	Delay   time.Duration
	Now     time.Time
}

// Decide fills in, for each list of condemned packs, since when it is known,
// when it is due, for which jobs it waits and whether it may be deleted now. A
// list is ready when the delay has passed since the region first saw it and
// every job that ran then has ended; one whose deletion had begun is always
// ready, because it was ready before.
func Decide(lists []List, k Known) []backstay.CondemnedPacks {
	out := make([]backstay.CondemnedPacks, 0, len(lists))
	for _, l := range lists {
		c := backstay.CondemnedPacks{List: l.ID, Packs: l.Packs, Rescued: l.Rescued, Since: k.Now, Waits: slices.Clone(k.Running)}
		at := slices.IndexFunc(k.Records, func(r catalog.TrashRecord) bool { return r.List == l.ID })
		if at >= 0 {
			c.Since = k.Records[at].Since
			c.Waits = still(k.Records[at].Leases, k.Running)
		}
		c.Due = c.Since.Add(k.Delay)
		c.Ready = l.Begun || len(c.Waits) == 0 && !k.Now.Before(c.Due)
		if c.Ready {
			c.Waits = nil
		}
		c.Waits = append([]backstay.Lease{}, c.Waits...)
		out = append(out, c)
	}
	return out
}

// still returns those of the leases whose jobs run yet.
func still(leases, running []backstay.Lease) []backstay.Lease {
	var out []backstay.Lease
	for _, l := range leases {
		if slices.ContainsFunc(running, func(r backstay.Lease) bool { return r.Job == l.Job }) {
			out = append(out, l)
		}
	}
	return out
}

// Leases are the leases that jobs hold on a vault: every job of it that has
// begun and not ended, unless its kind touches no pack. A job that a crash cut
// off is among them, because it will go on.
func Leases(jobs []catalog.JobRecord, vault backstay.VaultName) []backstay.Lease {
	leases := []backstay.Lease{}
	for _, j := range jobs {
		begun := j.Job.State == backstay.JobRunning || j.Job.State == backstay.JobCancelling
		// A queued job that has run before has state too, whatever put it back.
		begun = begun || j.Job.State == backstay.JobQueued && (j.Attempt > 0 || len(j.State) > 0)
		if !begun || !reads(j, vault) || j.Kind == backstay.JobReclaim || j.Kind == backstay.JobExpire {
			continue
		}
		leases = append(leases, backstay.Lease{Job: j.ID, Kind: j.Kind, Target: j.Target, Started: j.Started})
	}
	slices.SortFunc(leases, func(a, b backstay.Lease) int { return cmp.Compare(a.Job, b.Job) })
	return leases
}

// reads tells whether a job is one of a vault. A drill may read several, and takes a
// slot in one.
func reads(j catalog.JobRecord, vault backstay.VaultName) bool {
	if j.Vault == vault || j.Kind != backstay.JobDrill {
		return j.Vault == vault
	}
	var params backstay.DrillParams
	err := json.Unmarshal(j.Params, &params)
	return err != nil || slices.ContainsFunc(params.VMs, func(vm backstay.DrilledVM) bool { return vm.Vault == vault })
}

// Writing is what jobs under way have in hand: packs that they put, and points
// that they are about to commit.
type Writing struct {
	Packs  []string
	Points []backstay.PointID
}

// InHand reads what the jobs of a vault have in hand out of what they saved.
func InHand(jobs []catalog.JobRecord, vault backstay.VaultName) Writing {
	var w Writing
	for _, j := range jobs {
		if j.Vault != vault {
			continue
		}
		if j.Point != "" {
			w.Points = append(w.Points, j.Point)
		}
		var saved struct {
			Point backstay.PointID `json:"point"`
			Packs []string         `json:"packs"`
		}
		// Another kind of job saves something else, which names neither.
		if err := json.Unmarshal(j.State, &saved); err != nil {
			continue
		}
		if saved.Point != "" {
			w.Points = append(w.Points, saved.Point)
		}
		w.Packs = append(w.Packs, saved.Packs...)
	}
	return w
}

// Due tells whether a vault is to be reclaimed by itself: when the interval has
// passed since the last reclaim of it began, or since it was made. An interval of
// 0 means never.
func Due(vault backstay.Vault, last *time.Time, every time.Duration, now time.Time) bool {
	since := vault.Created
	if last != nil && last.After(since) {
		since = *last
	}
	if since.After(now) { // the clock was set back
		since = now
	}
	return every > 0 && now.Sub(since) >= every
}

// Sum fills in what would be free now and later.
func Sum(plan *backstay.ReclaimPlan, delay time.Duration, running []backstay.Lease) {
	plan.Now, plan.Later = 0, 0
	fresh := plan.Condemn.Bytes
	for _, p := range plan.Repack {
		fresh += p.Bytes - p.Live
	}
	if delay == 0 && len(running) == 0 {
		plan.Now += fresh
	} else {
		plan.Later += fresh
	}
	for _, t := range plan.Trash {
		gone := t.Packs.Bytes - t.Rescued.Bytes
		if t.Ready {
			plan.Now += gone
		} else {
			plan.Later += gone
		}
	}
}
