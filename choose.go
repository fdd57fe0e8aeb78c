package backstay

import (
	"cmp"
	"slices"
)

// FitUnits refuses units that do not give a vault what its redundancy demands: as
// many as copies, for LRS in one zone (or unnamed ones), for ZRS each in a zone of
// its own; or one that was declared redundant by itself.
func FitUnits(r Redundancy, units []StorageUnit) error {
	if len(units) == 1 && units[0].Redundant {
		return nil
	}
	if n := r.Copies(); len(units) != n {
		return Errorf(CodeUsage, "%s needs %d storage units, one for each copy", r, n).
			Becausef("%d were given", len(units)).
			Do("give --unit %d times, or one that keeps several copies by itself: --unit URL,redundant", n)
	}
	zones, unnamed := map[string]bool{}, 0
	for _, u := range units {
		if u.Zone == "" {
			unnamed++
		} else {
			zones[u.Zone] = true
		}
	}
	switch {
	case r == ZRS && len(zones) < len(units):
		return Errorf(CodeUsage, "ZRS needs a zone of its own for each storage unit").
			Becausef("%d zones were named for %d units", len(zones), len(units)).Do("say --unit URL,zone=NAME")
	case r != ZRS && len(zones) > 1:
		return Errorf(CodeUsage, "%s keeps its copies in one zone", r).
			Becausef("the units are in %d zones", len(zones)).Do("say --redundancy ZRS for one copy in each of three zones, or name units of one zone")
	}
	return nil
}

// ChooseUnits completes the units of a vault from those that the region knows, so
// that they fit the redundancy: free ones that answered when they were last looked
// at, on devices that no other copy is on before others, the roomiest first. What
// is kept comes first, in its order. CodeUsage says what is missing.
func ChooseUnits(r Redundancy, keep []StorageUnit, known []Unit) ([]StorageUnit, error) {
	if len(keep) == 1 && keep[0].Redundant {
		return keep, nil
	}
	for _, zone := range zonesToTry(r, keep, known) {
		if chosen := chooseIn(r, zone, keep, known); len(chosen) == r.Copies() {
			return chosen, nil
		}
	}
	where := "in one zone"
	if r == ZRS {
		where = "in three zones, one in each"
	}
	return nil, Errorf(CodeUsage, "the region has not the storage units for %s", r).
		Becausef("it needs %d %s, and those that are free do not suffice", r.Copies(), where).
		Do("add some with `backstay unit add URL --zone Z`, or name them: --unit URL[,zone=NAME]")
}

// zonesToTry are the zones in which all copies may lie; for ZRS, and where the zone
// is settled by what is kept, there is one choice.
func zonesToTry(r Redundancy, keep []StorageUnit, known []Unit) []string {
	if r == ZRS {
		return []string{""}
	}
	for _, u := range keep {
		if u.Zone != "" {
			return []string{u.Zone}
		}
	}
	var zones []string
	for _, u := range known {
		if !slices.Contains(zones, u.Zone) {
			zones = append(zones, u.Zone)
		}
	}
	slices.Sort(zones)
	return zones
}

func chooseIn(r Redundancy, zone string, keep []StorageUnit, known []Unit) []StorageUnit {
	chosen := slices.Clone(keep)
	free := slices.DeleteFunc(slices.Clone(known), func(u Unit) bool {
		return u.Closed || len(u.Vaults) > 0 || u.Redundant || u.State != "ok" && u.State != NoCopy ||
			slices.ContainsFunc(keep, func(k StorageUnit) bool { return k.URL == u.URL })
	})
	slices.SortStableFunc(free, func(a, b Unit) int {
		return cmp.Or(cmp.Compare(b.Available, a.Available), cmp.Compare(a.URL, b.URL))
	})
	for _, fresh := range []bool{true, false} { // devices of their own first
		for _, u := range free {
			if len(chosen) >= r.Copies() {
				return chosen
			}
			if !fits(r, zone, chosen, u) || fresh && onDevice(chosen, u.Device) {
				continue
			}
			chosen = append(chosen, StorageUnit{URL: u.URL, Zone: u.Zone, Device: u.Device})
		}
	}
	return chosen
}

// fits tells whether a unit can be one more of those that were chosen.
func fits(r Redundancy, zone string, chosen []StorageUnit, u Unit) bool {
	if slices.ContainsFunc(chosen, func(c StorageUnit) bool { return c.URL == u.URL }) {
		return false
	}
	if r == ZRS {
		return u.Zone != "" && !slices.ContainsFunc(chosen, func(c StorageUnit) bool { return c.Zone == u.Zone })
	}
	return u.Zone == "" || u.Zone == zone
}

func onDevice(chosen []StorageUnit, device string) bool {
	return device != "" && slices.ContainsFunc(chosen, func(c StorageUnit) bool { return c.Device == device })
}
