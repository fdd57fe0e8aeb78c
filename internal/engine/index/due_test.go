package index

import (
	"fmt"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

func point(n int, vm backstay.VMID, host backstay.HostName) backstay.RecoveryPoint {
	return backstay.RecoveryPoint{ID: backstay.PointID(fmt.Sprintf("%026d", n)), VM: backstay.VMRef{UUID: vm, Host: host}, Vault: "main",
		Tiers: []backstay.PointTier{{Tier: backstay.VaultTier, State: backstay.TierAvailable}}}
}

func ids(points []backstay.RecoveryPoint) (all []backstay.PointID) {
	for _, p := range points {
		all = append(all, p.ID)
	}
	return all
}

func TestTheNewestPointOfEachVMIsListedOnceAndNotWhileItsHostWorks(t *testing.T) {
	a1, a2, b1, c1, d1 := point(1, "a", "h1"), point(2, "a", "h1"), point(3, "b", "h1"), point(4, "c", "h2"), point(5, "d", "h3")
	onlyHere := point(6, "d", "h3")
	onlyHere.Tiers[0].Tier = backstay.SnapshotTier
	s := State{
		Points:   []backstay.RecoveryPoint{a2, a1, b1, c1, d1, onlyHere},
		Policies: []backstay.Policy{{Name: "daily"}, {Name: "bare", NoIndex: true}},
		HostOf:   func(j backstay.Job) backstay.HostName { return backstay.HostName(j.Target) },
	}
	for _, vm := range []backstay.VMID{"a", "b", "c", "d", "e"} {
		s.Items = append(s.Items, backstay.ProtectedItem{VM: backstay.VMRef{UUID: vm}, Policy: "daily", Vault: "main"})
	}
	for what, c := range map[string]struct {
		change func(*State)
		want   []backstay.RecoveryPoint
	}{
		"one on each host": {func(*State) {}, []backstay.RecoveryPoint{a2, c1, d1}},
		"a host with a job": {func(s *State) {
			s.Jobs = []backstay.Job{{Kind: backstay.JobBackup, State: backstay.JobQueued, Target: "h2"}}
		}, []backstay.RecoveryPoint{a2, d1}},
		"one that was tried": {func(s *State) {
			s.Jobs = []backstay.Job{{Kind: backstay.JobIndex, State: backstay.JobFailed, Point: a2.ID}}
		}, []backstay.RecoveryPoint{b1, c1, d1}},
		"a policy without": {func(s *State) { s.Items[0].Policy = "bare" }, []backstay.RecoveryPoint{b1, c1, d1}},
		"another vault":    {func(s *State) { s.Items[3].Vault = "other" }, []backstay.RecoveryPoint{a2, c1}},
	} {
		now := s
		now.Items = slices.Clone(s.Items)
		c.change(&now)
		if got := Due(now); !slices.Equal(ids(got), ids(c.want)) {
			t.Errorf("%s: %v, want %v", what, ids(got), ids(c.want))
		}
	}
}

func TestAPointThatFailedIsListedWithTheNext(t *testing.T) {
	p := []backstay.RecoveryPoint{point(1, "a", "h1"), point(2, "a", "h1"), point(3, "a", "h1"), point(4, "a", "h1")}
	job := func(p backstay.RecoveryPoint, s backstay.JobState) backstay.Job {
		return backstay.Job{Kind: backstay.JobIndex, Point: p.ID, State: s}
	}
	jobs := []backstay.Job{job(p[0], backstay.JobFailed), job(p[1], backstay.JobSucceeded), job(p[2], backstay.JobFailed)}
	if got := Missed(p, jobs, p[3]); !slices.Equal(ids(got), ids(p[2:3])) {
		t.Errorf("missed %v", ids(got))
	}
	if got := Missed(p[:2], jobs, p[1]); len(got) != 0 {
		t.Errorf("a point before the list's newest: %v", ids(got))
	}
	if got := Missed(slices.Concat(p[:2], p[3:]), jobs, p[3]); len(got) != 0 {
		t.Errorf("a point that is gone: %v", ids(got))
	}
}

func TestWhatTwoVaultsHaveOfOnePathIsPutTogether(t *testing.T) {
	file := func(path string, last backstay.PointID) backstay.FoundFile {
		return backstay.FoundFile{Volume: "vda1", Path: backstay.FilePath(path), Versions: []backstay.FileVersion{{Last: last}}}
	}
	got := join([]backstay.FoundFile{file("/a", "1"), file("/c", "1")}, []backstay.FoundFile{file("/a", "2"), file("/b", "2")})
	if len(got) != 3 || len(got[0].Versions) != 2 || got[0].Versions[0].Last != "2" || got[1].Path != "/b" {
		t.Errorf("%+v", got)
	}
}
