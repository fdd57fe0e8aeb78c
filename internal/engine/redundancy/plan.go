package redundancy

import (
	"cmp"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// New is why a unit is behind that never was a copy.
const New = "it is new, and nothing is in it yet"

// Plan is what is to be done to a vault's units, as they are now.
type Plan struct {
	Introduce []string // units that are made ready to be written
	Fill      []string // units that get what they lack
	Leave     []string // units that go as soon as they are not needed
	// Switch is the redundancy that the vault gets then; empty if it keeps its own.
	Switch backstay.Redundancy
}

// NewPlan says what is to be done.
func NewPlan(v backstay.Vault) Plan {
	p := Plan{Introduce: v.Standing(backstay.Behind), Leave: v.Standing(backstay.Leaving)}
	p.Fill = append(v.Standing(backstay.Joining), p.Introduce...)
	if v.Wish != v.Redundancy {
		p.Switch = v.Wish
	}
	return p
}

// Empty tells whether nothing is to be done.
func (p Plan) Empty() bool {
	return len(p.Introduce)+len(p.Fill)+len(p.Leave) == 0 && p.Switch == ""
}

// MayLeave returns nil if a vault is as well without the unit, and else why not.
func MayLeave(v backstay.Vault, url string) error {
	without := v
	without.Units = slices.DeleteFunc(slices.Clone(v.Units), func(u backstay.StorageUnit) bool { return u.URL == url })
	switch {
	case len(without.Whole()) == 0:
		return backstay.Errorf(backstay.CodeUnitInUse, "the storage unit %s stays in the vault %s", url, v.Name).
			Becausef("no other one has everything")
	case without.Short() > v.Short():
		return backstay.Errorf(backstay.CodeUnitInUse, "the storage unit %s stays in the vault %s", url, v.Name).
			Becausef("without it the vault would be short of %d of its %d copies", without.Short(), v.Redundancy.Copies())
	}
	return nil
}

// Settled returns nil if the units that stay have everything and give what the
// redundancy demands.
func Settled(v backstay.Vault, r backstay.Redundancy) error {
	var stay []backstay.StorageUnit
	for _, u := range v.Units {
		if u.Standing == "" || u.Standing == backstay.Current {
			stay = append(stay, u)
		}
	}
	if err := backstay.FitUnits(r, stay); err != nil {
		return backstay.Errorf(backstay.CodeVaultAway, "the vault %s is not switched to %s yet", v.Name, r).
			Becausef("%d storage units have everything: %s", len(stay), backstay.AsError(err).Cause).
			Do("see with `backstay vault show %s` which one is not ready, and why; it is gone on with when that one answers", v.Name)
	}
	return nil
}

// Aim returns the units of a vault as they are to be from now on so that it comes to
// the redundancy: those named are part of it, units that can stay do, and what
// lacks then is chosen from the free units that the region knows. New ones are
// Behind until they were introduced, those that are not part of it are Leaving.
// Without is a unit that must go; empty for none.
func Aim(v backstay.Vault, want backstay.Redundancy, named []backstay.StorageUnit, known []backstay.Unit, without string, now time.Time) ([]backstay.StorageUnit, error) {
	known = slices.DeleteFunc(slices.Clone(known), func(u backstay.Unit) bool { return u.URL == without })
	target, err := target(v, want, named, known, without)
	if err != nil {
		return nil, err
	}
	in := func(url string) bool {
		return slices.ContainsFunc(target, func(t backstay.StorageUnit) bool { return t.URL == url })
	}
	var out []backstay.StorageUnit
	for _, u := range v.Units {
		switch {
		case in(u.URL) && u.Standing == backstay.Leaving:
			u.Standing, u.Since = backstay.Current, &now
		case in(u.URL):
		case u.Standing.Whole():
			u.Standing, u.Since = backstay.Leaving, &now
		default:
			continue // it has nothing that others need
		}
		out = append(out, u)
	}
	for _, t := range target {
		if !slices.ContainsFunc(v.Units, func(u backstay.StorageUnit) bool { return u.URL == t.URL }) {
			t.Standing, t.Since, t.Why = backstay.Behind, &now, New
			out = append(out, t) // last: the order of the others decides between writers
		}
	}
	return out, nil
}

// target returns the units that the vault shall have in the end.
func target(v backstay.Vault, want backstay.Redundancy, named []backstay.StorageUnit, known []backstay.Unit, without string) ([]backstay.StorageUnit, error) {
	if slices.ContainsFunc(named, func(u backstay.StorageUnit) bool { return u.Redundant }) {
		return named, backstay.FitUnits(want, named)
	}
	var stay []backstay.StorageUnit
	for _, u := range v.Units {
		if u.URL == without || u.Standing == backstay.Leaving || slices.ContainsFunc(named, func(n backstay.StorageUnit) bool { return n.URL == u.URL }) {
			continue
		}
		if u.Redundant && len(named) == 0 && u.Standing.Whole() {
			return []backstay.StorageUnit{u}, nil
		}
		if !u.Redundant {
			stay = append(stay, u)
		}
	}
	var last error
	for _, zone := range zones(want, named, stay, known) {
		keep := slices.Clone(named)
		for _, u := range stay {
			if len(keep) < want.Copies() && fits(want, zone, keep, u) {
				keep = append(keep, u)
			}
		}
		chosen, err := keep, error(nil)
		if len(keep) < want.Copies() {
			chosen, err = backstay.ChooseUnits(want, keep, known)
		}
		if err == nil {
			err = backstay.FitUnits(want, chosen)
		}
		if err == nil {
			return chosen, nil
		}
		last = err
	}
	return nil, last
}

func fits(want backstay.Redundancy, zone string, keep []backstay.StorageUnit, u backstay.StorageUnit) bool {
	if want == backstay.ZRS {
		return u.Zone != "" && !slices.ContainsFunc(keep, func(k backstay.StorageUnit) bool { return k.Zone == u.Zone })
	}
	return u.Zone == "" || u.Zone == zone
}

// zones are the zones to try for copies that lie in one: the one in which most of
// what may stay is comes first.
func zones(want backstay.Redundancy, named, stay []backstay.StorageUnit, known []backstay.Unit) []string {
	if want == backstay.ZRS {
		return []string{""}
	}
	for _, u := range named {
		if u.Zone != "" {
			return []string{u.Zone}
		}
	}
	count := map[string]int{}
	var all []string
	add := func(zone string, n int) {
		if _, ok := count[zone]; !ok {
			all = append(all, zone)
		}
		count[zone] += n
	}
	for _, u := range stay {
		add(u.Zone, 1)
	}
	for _, u := range known {
		add(u.Zone, 0)
	}
	slices.SortFunc(all, func(a, b string) int { return cmp.Or(cmp.Compare(count[b], count[a]), cmp.Compare(a, b)) })
	if len(all) == 0 {
		return []string{""}
	}
	return all
}

// Before returns the jobs that write into the vault and began before a time: they
// may have opened it with the units as those were then.
func Before(jobs []catalog.JobRecord, vault backstay.VaultName, since time.Time) []string {
	var out []string
	for _, j := range jobs {
		begun := j.Job.State == backstay.JobRunning || j.Job.State == backstay.JobCancelling ||
			j.Job.State == backstay.JobQueued && (j.Attempt > 0 || len(j.State) > 0)
		if begun && writes(j, vault) && (j.Started == nil || j.Started.Before(since)) {
			out = append(out, fmt.Sprintf("%s (%s)", j.ID, j.Kind))
		}
	}
	slices.Sort(out)
	return out
}

// writes tells whether a job writes into the vault.
func writes(j catalog.JobRecord, vault backstay.VaultName) bool {
	switch j.Kind {
	case backstay.JobBackup, backstay.JobExpire, backstay.JobIndex, backstay.JobRejoin:
		return j.Vault == vault || j.Target == string(vault)
	case backstay.JobReclaim, backstay.JobRepair:
		return j.Target == string(vault)
	}
	return false
}
