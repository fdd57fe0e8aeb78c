package replicate

import (
	"cmp"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

// Missing are the points that are to be pushed, newest first: those that are not
// whole in the other region, and that it did not let go by its own retention.
// Ids are in the order of time.
func Missing(points []backstay.PointID, held pair.Held) []backstay.PointID {
	var out []backstay.PointID
	for _, id := range points {
		_, available := held.Available[id]
		_, gone := held.Gone[id]
		if !available && !gone {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b backstay.PointID) int { return cmp.Compare(b, a) })
	return slices.Compact(out)
}

// vouching is of how many points, which are whole in the other region, the packs
// are taken to be there without asking.
const vouching = 16

// Vouching are the points whose packs need not be asked for: of those that are
// whole there, the newest. One that is not in the vault any more cannot tell.
func Vouching(points []backstay.PointID, held pair.Held) []backstay.PointID {
	var out []backstay.PointID
	for _, id := range points {
		if _, ok := held.Available[id]; ok {
			out = append(out, id)
		}
	}
	slices.SortFunc(out, func(a, b backstay.PointID) int { return cmp.Compare(b, a) })
	return out[:min(len(out), vouching)]
}

// Subject is what the catalogue's records are made from.
type Subject struct {
	Vault  backstay.VaultName
	Region backstay.RegionName
	// Points are those that the vault offers.
	Points []backstay.PointID
	Held   pair.Held
	// Times are the points' own, of those that are known.
	Times map[backstay.PointID]time.Time
	Known []catalog.ReplicaRecord
	Now   time.Time
}

// Records says what of the catalogue's records is to be changed, so that they say
// what the other region says, and of which points nothing is to be said any more
// because the vault has them no more. Nothing is believed of points that this
// region does not have, nor a time that is yet to come.
func (s Subject) Records() (put []catalog.ReplicaRecord, forget []backstay.PointID) {
	known := map[backstay.PointID]catalog.ReplicaRecord{}
	for _, r := range s.Known {
		if r.Region == s.Region {
			known[r.Point] = r
		}
	}
	for _, id := range s.Points {
		was, ok := known[id]
		delete(known, id)
		now := backstay.Replica{Region: s.Region, State: backstay.ReplicaPending, At: s.Now}
		if at, there := s.Held.Available[id]; there {
			now.State, now.At = backstay.ReplicaAvailable, at
		} else if at, gone := s.Held.Gone[id]; gone {
			now.State, now.At = backstay.ReplicaGone, at
		}
		if ok && was.State == now.State || was.State == backstay.ReplicaCopying && now.State == backstay.ReplicaPending {
			continue
		}
		put = append(put, s.record(id, now))
	}
	for id := range known {
		forget = append(forget, id)
	}
	slices.Sort(forget)
	return put, forget
}

// record makes a record with a time that may be, and the lag that it means.
func (s Subject) record(id backstay.PointID, r backstay.Replica) catalog.ReplicaRecord {
	if r.At.After(s.Now) {
		r.At = s.Now
	}
	r.At = r.At.UTC()
	return catalog.ReplicaRecord{Point: id, Vault: s.Vault, Replica: r.WithLag(s.Times[id], s.Now)}
}

// Replicated is what is known of a vault's replication when it is decided whether
// to push.
type Replicated struct {
	// Points are those that the catalogue has in the vault tier, Records how far they are.
	Points  []backstay.RecoveryPoint
	Records []catalog.ReplicaRecord
	// Last is the newest job that pushed to the region; nil if there was none.
	Last *backstay.Job
	Now  time.Time
}

const (
	// askEvery is how often the other region is asked when nothing is known to be
	// missing: what it let go by itself it does not tell, and records of the chain may
	// wait.
	askEvery = time.Hour
	// pauseAfter is how long nothing is pushed after a job that failed, if nothing is
	// new. One that found the region away is tried again when that answers.
	pauseAfter = 5 * time.Minute
	// pauseBetween is how long nothing is pushed after a job that left something out
	// and did not fail, if nothing is new.
	pauseBetween = time.Minute
)

// Due tells whether a job is to push to the region.
func (r Replicated) Due(region backstay.RegionName) bool {
	if r.Last != nil && !r.Last.State.Ended() {
		return false
	}
	settled := map[backstay.PointID]bool{}
	for _, rec := range r.Records {
		if rec.Region == region && (rec.State == backstay.ReplicaAvailable || rec.State == backstay.ReplicaGone) {
			settled[rec.Point] = true
		}
	}
	missing, fresh := false, false
	for _, p := range r.Points {
		if settled[p.ID] {
			continue
		}
		missing = true
		fresh = fresh || r.Last == nil || p.Time.After(r.Last.Created) && !p.Time.After(r.Now)
	}
	switch {
	case r.Last == nil:
		return true
	case fresh:
		return true
	case missing:
		away := r.Last.Error != nil && r.Last.Error.Code == backstay.CodeRegionAway
		troubled := r.Last.State == backstay.JobFailed || r.Last.State == backstay.JobWarning || r.Last.State == backstay.JobCancelled
		return away || r.since() >= pauseAfter || !troubled && r.since() >= pauseBetween
	}
	return r.since() >= askEvery
}

// since is how long ago the last job ended; a clock that was set back counts as
// long.
func (r Replicated) since() time.Duration {
	if r.Last.Ended == nil || r.Last.Ended.After(r.Now) {
		return askEvery
	}
	return r.Now.Sub(*r.Last.Ended)
}

// Sum says how far a vault is in a region, from what the catalogue has: its points
// in the vault tier and their records.
func Sum(vault backstay.VaultName, region backstay.RegionName, points []backstay.RecoveryPoint, records []catalog.ReplicaRecord, now time.Time) backstay.Replication {
	out := backstay.Replication{Vault: vault, Region: region}
	there := map[backstay.PointID]catalog.ReplicaRecord{}
	for _, r := range records {
		if r.Region == region && r.State == backstay.ReplicaAvailable {
			there[r.Point] = r
		}
	}
	var newest, covered, oldest *backstay.RecoveryPoint
	for i := range points {
		p := &points[i]
		if p.Vault != vault || !p.Has(backstay.VaultTier) {
			continue
		}
		out.Points++
		newest = later(newest, p)
		if oldest == nil || p.Time.Before(oldest.Time) {
			oldest = p
		}
		r, ok := there[p.ID]
		if !ok {
			continue
		}
		out.Available++
		covered = later(covered, p)
		if out.Last == nil || r.At.After(*out.Last) {
			out.Last = &r.At
		}
	}
	switch {
	case covered != nil:
		out.Newest = &covered.ID
		out.LagSeconds = int64(newest.Time.Sub(covered.Time) / time.Second)
	case oldest != nil: // all of it would be lost
		out.LagSeconds = max(0, int64(now.Sub(oldest.Time)/time.Second))
	}
	return out
}

// later returns the later of two points; with the arguments of a nil the other one.
func later(a, b *backstay.RecoveryPoint) *backstay.RecoveryPoint {
	if a == nil || b != nil && b.Time.After(a.Time) {
		return b
	}
	return a
}
