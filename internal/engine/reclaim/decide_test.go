package reclaim

import (
	"slices"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

var now = time.Date(2026, 11, 22, 12, 0, 0, 0, time.UTC)

const day = 24 * time.Hour

func lease(id backstay.JobID) backstay.Lease {
	return backstay.Lease{Job: id, Kind: backstay.JobRestore}
}

func TestAListGoesWhenItsDelayHasPassedAndItsReadersHaveEnded(t *testing.T) {
	record := func(since time.Duration, leases ...backstay.Lease) []catalog.TrashRecord {
		return []catalog.TrashRecord{{List: "L", Since: now.Add(-since), Leases: leases}}
	}
	for what, c := range map[string]struct {
		list    List
		records []catalog.TrashRecord
		running []backstay.Lease
		delay   time.Duration
		ready   bool
		waits   int
	}{
		"old enough, nobody reads":              {List{ID: "L"}, record(25 * time.Hour), nil, day, true, 0},
		"just old enough":                       {List{ID: "L"}, record(day), nil, day, true, 0},
		"too young":                             {List{ID: "L"}, record(23 * time.Hour), nil, day, false, 0},
		"a reader from before still runs":       {List{ID: "L"}, record(2*day, lease("A")), []backstay.Lease{lease("A"), lease("B")}, day, false, 1},
		"a reader from before has ended":        {List{ID: "L"}, record(2*day, lease("A")), []backstay.Lease{lease("B")}, day, true, 0},
		"only later jobs run":                   {List{ID: "L"}, record(2 * day), []backstay.Lease{lease("B")}, day, true, 0},
		"no delay, nobody reads":                {List{ID: "L"}, record(0), nil, 0, true, 0},
		"no delay, a reader from before":        {List{ID: "L"}, record(0, lease("A")), []backstay.Lease{lease("A")}, 0, false, 1},
		"the region does not know it yet":       {List{ID: "L"}, nil, []backstay.Lease{lease("A")}, day, false, 1},
		"the region knows another one":          {List{ID: "M"}, record(9 * day), nil, day, false, 0},
		"its deletion had begun":                {List{ID: "L", Begun: true}, record(0, lease("A")), []backstay.Lease{lease("A")}, day, true, 0},
		"the clock was set back since it began": {List{ID: "L"}, record(-3 * day), nil, day, false, 0},
	} {
		got := Decide([]List{c.list}, Known{Records: c.records, Running: c.running, Delay: c.delay, Now: now})
		if len(got) != 1 || got[0].Ready != c.ready || len(got[0].Waits) != c.waits || got[0].Waits == nil {
			t.Errorf("%s: %+v", what, got)
		}
	}
}

func TestEveryBegunJobOfTheVaultHoldsALease(t *testing.T) {
	job := func(id backstay.JobID, kind backstay.JobKind, state backstay.JobState, vault backstay.VaultName) catalog.JobRecord {
		return catalog.JobRecord{Job: backstay.Job{ID: id, Kind: kind, State: state}, Vault: vault}
	}
	again := job("6", backstay.JobBackup, backstay.JobQueued, "main")
	again.Attempt = 1
	leases := Leases([]catalog.JobRecord{
		job("5", backstay.JobVerify, backstay.JobRunning, "main"),
		job("1", backstay.JobBackup, backstay.JobRunning, "main"),
		job("2", backstay.JobRestore, backstay.JobCancelling, "main"),
		job("3", backstay.JobBackup, backstay.JobRunning, "second"),
		job("4", backstay.JobBackup, backstay.JobQueued, "main"),
		job("7", backstay.JobReclaim, backstay.JobRunning, "main"),
		job("8", backstay.JobExpire, backstay.JobRunning, "main"),
		again,
		drill("9", `{"vms":[{"vault":"second"},{"vault":"main"}]}`), drill("91", `{"vms":[{"vault":"second"}]}`),
	}, "main")
	var ids []backstay.JobID
	for _, l := range leases {
		ids = append(ids, l.Job)
	}
	if !slices.Equal(ids, []backstay.JobID{"1", "2", "5", "6", "9"}) {
		t.Errorf("leases: %v", ids)
	}
}

// drill is a job that reads several vaults and has a slot in another one.
func drill(id backstay.JobID, params string) catalog.JobRecord {
	return catalog.JobRecord{Job: backstay.Job{ID: id, Kind: backstay.JobDrill, State: backstay.JobRunning}, Vault: "second", Params: []byte(params)}
}

func TestWhatJobsHaveInHandIsReadFromWhatTheySaved(t *testing.T) {
	w := InHand([]catalog.JobRecord{
		{Job: backstay.Job{Point: "P1"}, Vault: "main", State: []byte(`{"point":"P2","packs":["a","b"]}`)},
		{Vault: "main", State: []byte(`[1]`)},
		{Vault: "main"},
		{Job: backstay.Job{Point: "P3"}, Vault: "second", State: []byte(`{"packs":["c"]}`)},
	}, "main")
	if !slices.Equal(w.Packs, []string{"a", "b"}) || !slices.Equal(w.Points, []backstay.PointID{"P1", "P2"}) {
		t.Errorf("%+v", w)
	}
}

func TestAVaultIsDueAfterTheInterval(t *testing.T) {
	at := func(d time.Duration) *time.Time {
		t := now.Add(d)
		return &t
	}
	young, old := backstay.Vault{Created: now.Add(-time.Hour)}, backstay.Vault{Created: now.Add(-9 * day)}
	for what, c := range map[string]struct {
		vault backstay.Vault
		last  *time.Time
		every time.Duration
		want  bool
	}{
		"new vault":              {young, nil, day, false},
		"old vault, never":       {old, nil, day, true},
		"yesterday":              {old, at(-day), day, true},
		"an hour ago":            {old, at(-time.Hour), day, false},
		"switched off":           {old, nil, 0, false},
		"the clock was set back": {old, at(day), day, false},
	} {
		if got := Due(c.vault, c.last, c.every, now); got != c.want {
			t.Errorf("%s: %v", what, got)
		}
	}
}

func TestWhatIsFreeNowAndLaterAddsUp(t *testing.T) {
	sum := func(bytes int64) backstay.ObjectSum { return backstay.ObjectSum{Objects: 1, Bytes: bytes} }
	plan := func() backstay.ReclaimPlan {
		return backstay.ReclaimPlan{Condemn: sum(100), Repack: []backstay.PackToMove{{Bytes: 50, Live: 20}}, Trash: []backstay.CondemnedPacks{
			{Packs: sum(1000), Rescued: sum(200), Ready: true}, {Packs: sum(7)},
		}}
	}
	p := plan()
	Sum(&p, day, nil)
	if p.Now != 800 || p.Later != 137 {
		t.Errorf("with a delay: %d now, %d later", p.Now, p.Later)
	}
	p = plan()
	Sum(&p, 0, nil)
	if p.Now != 930 || p.Later != 7 {
		t.Errorf("without: %d now, %d later", p.Now, p.Later)
	}
	p = plan()
	Sum(&p, 0, []backstay.Lease{lease("A")})
	if p.Now != 800 || p.Later != 137 {
		t.Errorf("without, and somebody reads: %d now, %d later", p.Now, p.Later)
	}
}
