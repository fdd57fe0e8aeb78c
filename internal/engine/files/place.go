package files

import (
	"cmp"
	"slices"

	backstay "github.com/backstay/backstay"
)

// place is where a point can be opened.
type place struct {
	tier backstay.Tier
	host backstay.HostName
}

// places are those where the point can be opened, the best first: beside its disks,
// where nothing is fetched; then out of its vault on its own host, which has most of
// it in memory; then on any other host. wish leaves the other tier out.
func places(p backstay.RecoveryPoint, wish backstay.Tier, hosts []backstay.Host) ([]place, error) {
	reachable := func(name backstay.HostName) bool {
		return slices.ContainsFunc(hosts, func(h backstay.Host) bool { return h.Name == name && h.State == "connected" })
	}
	var found []place
	var refused error
	refuse := func(e error) {
		if refused == nil {
			refused = e
		}
	}
	if wish != backstay.VaultTier {
		switch {
		case !p.Has(backstay.SnapshotTier):
			if wish != "" {
				refuse(backstay.Errorf(backstay.CodeTierMissing, "the point %s is not in the snapshot tier", p.ID).Becausef("%s", tierState(p, wish)))
			}
		case !reachable(p.VM.Host):
			refuse(hostAway(p.VM.Host, hosts).Do("start the mover of host %s, or say --tier vault if the point is in its vault", p.VM.Host))
		default:
			found = append(found, place{backstay.SnapshotTier, p.VM.Host})
		}
	}
	if wish != backstay.SnapshotTier {
		switch {
		case !p.Has(backstay.VaultTier):
			refuse(backstay.Errorf(backstay.CodeTierMissing, "the point %s cannot be read", p.ID).Becausef("%s", tierState(p, backstay.VaultTier)))
		default:
			found = append(found, vaultPlaces(p, hosts)...)
			refuse(backstay.Errorf(backstay.CodeHostAway, "no host can be reached").Becausef("a point is opened on a host, and none of this region answers"))
		}
	}
	if len(found) > 0 {
		return found, nil
	}
	return nil, refused
}

// vaultPlaces are the reachable hosts, the point's own first.
func vaultPlaces(p backstay.RecoveryPoint, hosts []backstay.Host) []place {
	var found []place
	for _, h := range hosts {
		if h.State == "connected" {
			found = append(found, place{backstay.VaultTier, h.Name})
		}
	}
	slices.SortFunc(found, func(a, b place) int {
		if (a.host == p.VM.Host) != (b.host == p.VM.Host) {
			if a.host == p.VM.Host {
				return -1
			}
			return 1
		}
		return cmp.Compare(a.host, b.host)
	})
	return found
}

func tierState(p backstay.RecoveryPoint, tier backstay.Tier) string {
	for _, t := range p.Tiers {
		if t.Tier == tier {
			return "its copy there is " + string(t.State)
		}
	}
	return "it is not in the " + string(tier) + " tier"
}

func hostAway(name backstay.HostName, hosts []backstay.Host) *backstay.Error {
	e := backstay.Errorf(backstay.CodeHostAway, "host %s cannot be reached", name)
	for _, h := range hosts {
		if h.Name == name && h.Reason != "" {
			return e.Becausef("%s", h.Reason)
		}
	}
	return e.Becausef("the point is beside the disks there")
}
