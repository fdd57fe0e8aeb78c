package backup

import (
	"context"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/mover"
)

// next makes the world's next job, on the same host and catalogue.
func (w *world) next() {
	w.job = backstay.Job{ID: w.job.ID + "J", Kind: backstay.JobBackup}
	w.saved, w.free = json.RawMessage(nil), false
	w.done, w.skipped = map[string]bool{}, map[string]string{}
}

func (w *world) points() map[backstay.PointID]*backstay.RecoveryPoint {
	w.t.Helper()
	list, err := w.catalog.Points.ListPoints(w.t.Context(), "")
	must(w.t, err)
	all := map[backstay.PointID]*backstay.RecoveryPoint{}
	for _, p := range list {
		all[p.ID] = &p
	}
	return all
}

func TestASecondBackupDuringATransferTakesItsSnapshotAndSkipsTheTransfer(t *testing.T) {
	w := newWorld(t)
	earlier := transferring(t, w.catalog, "uuid-1")
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	p := w.points()["P1"]
	if len(p.Tiers) != 1 || !p.Has(backstay.SnapshotTier) || len(w.inVault) != 0 {
		t.Errorf("tiers %+v, in the vault %v", p.Tiers, w.inVault)
	}
	for _, name := range []string{"transfer", "validate"} {
		if !strings.Contains(w.skipped[name], string(earlier)) {
			t.Errorf("%s: skipped because of %q", name, w.skipped[name])
		}
	}
	// A job that transfers nothing keeps the VM to its end: else one that comes
	// next would leave its transfer to it.
	if w.free || len(w.warnings) > 0 {
		t.Errorf("free %v, warnings %q", w.free, w.warnings)
	}
}

func TestTheNextTransferIsRelativeToTheNewestPointInTheVault(t *testing.T) {
	w := newWorld(t)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"})) // P1, in the vault
	for range 2 {
		w.next()
		must(t, w.live(backstay.BackupParams{VM: "uuid-1", Tier: backstay.SnapshotTier}))
	}
	w.next()
	w.now = w.now.Add(time.Hour)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if w.parent != "P1" {
		t.Errorf("the transfer was told of the parent %q, want P1", w.parent)
	}
	if all := w.points(); len(all) != 4 || !all["P4"].Has(backstay.VaultTier) || all["P2"].Has(backstay.VaultTier) {
		t.Errorf("points %+v", all)
	}
}

func TestTheVMIsTheJobsUntilTheSnapshotIsRecordedAndNoLonger(t *testing.T) {
	for at, free := range map[string]bool{"prepare": false, "take": false, "after take": false, "end of snapshot": false, "transfer": true, "validate": true} {
		w := newWorld(t)
		w.killAt = at
		_ = w.live(backstay.BackupParams{VM: "uuid-1"})
		if w.free != free {
			t.Errorf("killed at %s: the VM is free: %v", at, w.free)
		}
	}
}

// TestHowABackupEnds goes through the outcomes of a backup on a real queue.
func TestHowABackupEnds(t *testing.T) {
	broken := backstay.Errorf(backstay.CodeVaultFull, "the vault is full")
	for name, c := range map[string]struct {
		before   func(w *world)
		params   backstay.BackupParams
		snapshot error // of the snapshot
		transfer error
		want     backstay.JobState
		tasks    string // of snapshot and transfer
	}{
		"all done":                        {want: backstay.JobSucceeded, tasks: "succeeded succeeded"},
		"only the snapshot was asked for": {params: backstay.BackupParams{Tier: backstay.SnapshotTier}, want: backstay.JobSucceeded, tasks: "succeeded skipped"},
		"an earlier transfer runs":        {before: func(w *world) { transferring(w.t, w.catalog, "uuid-1") }, want: backstay.JobSucceeded, tasks: "succeeded skipped"},
		"the transfer fails":              {transfer: broken, want: backstay.JobWarning, tasks: "succeeded failed"},
		"the snapshot fails":              {snapshot: broken, want: backstay.JobFailed, tasks: "failed skipped"},
	} {
		t.Run(name, func(t *testing.T) {
			w := newWorld(t)
			if c.before != nil {
				c.before(w)
			}
			w.transfer, w.refuseTake = c.transfer, c.snapshot
			c.params.VM = "uuid-1"
			j := w.queued(c.params, nil)
			var tasks []string
			for _, task := range j.Tasks[2:4] {
				tasks = append(tasks, string(task.State))
				if task.State == backstay.TaskSkipped && task.Detail == "" && c.want == backstay.JobSucceeded {
					t.Errorf("%s is skipped without a reason", task.Name)
				}
			}
			if j.State != c.want || strings.Join(tasks, " ") != c.tasks {
				t.Errorf("%s with %v, want %s with %s (error %v)", j.State, tasks, c.want, c.tasks, j.Error)
			}
		})
	}
}

func TestABackupThatComesDuringASnapshotIsRefusedAndOneDuringATransferIsNot(t *testing.T) {
	w := newWorld(t)
	// The first job waits in its snapshot and in its transfer.
	type place struct{ reached, goOn chan struct{} }
	stops := func() (place, func()) {
		p := place{make(chan struct{}), make(chan struct{})}
		var once sync.Once
		return p, func() { once.Do(func() { close(p.reached); <-p.goOn }) }
	}
	var snapshot, transfer place
	snapshot, w.meanwhile = stops()
	transfer, w.inTransfer = stops()
	j := w.queued(backstay.BackupParams{VM: "uuid-1"}, func(q *job.Queue, first backstay.JobID) {
		<-snapshot.reached
		_, err := q.Submit(t.Context(), w.submission(backstay.BackupParams{VM: "uuid-1"}))
		var coded *backstay.Error
		if !errors.As(err, &coded) || coded.Code != backstay.CodeConflict || !strings.Contains(coded.Action, string(first)) {
			t.Errorf("during the snapshot: %v", err)
		}
		close(snapshot.goOn)
		<-transfer.reached
		second, err := q.Submit(t.Context(), w.submission(backstay.BackupParams{VM: "uuid-1"}))
		must(t, err)
		if ended := follow(t, q, second.ID); ended.State != backstay.JobSucceeded || ended.Tasks[3].State != backstay.TaskSkipped {
			t.Errorf("during the transfer: %s, %+v", ended.State, ended.Tasks)
		}
		close(transfer.goOn)
	})
	if j.State != backstay.JobSucceeded || len(w.inVault) != 1 {
		t.Errorf("the first ended as %s, in the vault %v", j.State, w.inVault)
	}
}

// submission is a backup as it is submitted.
func (w *world) submission(params backstay.BackupParams) job.Request {
	return job.Request{Kind: backstay.JobBackup, Target: "east/web01", Params: params, VMs: []backstay.VMID{params.VM}, Alone: true}
}

// queued runs a backup on a queue of its own, with what somebody does meanwhile,
// and returns it ended.
func (w *world) queued(params backstay.BackupParams, meanwhile func(*job.Queue, backstay.JobID)) backstay.Job {
	w.t.Helper()
	q, err := job.New(job.Options{
		Catalog: w.catalog, Poll: 10 * time.Millisecond,
		Tasks: map[backstay.JobKind][]string{backstay.JobBackup: Tasks},
		Runners: map[backstay.JobKind]job.Runner{backstay.JobBackup: func(ctx context.Context, run backstay.Run) error {
			var params backstay.BackupParams
			if err := job.Params(run, &params); err != nil {
				return err
			}
			return w.runner().Run(ctx, run.(backstay.LongRun), params)
		}},
	})
	must(w.t, err)
	// What stands for another server's job is not this queue's to run.
	recs, err := w.catalog.Jobs.ListJobs(w.t.Context(), 0)
	must(w.t, err)
	for _, rec := range recs {
		_, err := w.catalog.Jobs.ClaimJob(w.t.Context(), rec.ID, "another", time.Now(), time.Now().Add(time.Hour))
		must(w.t, err)
	}
	must(w.t, q.Start(w.t.Context()))
	defer q.Stop()
	j, err := q.Submit(w.t.Context(), w.submission(params))
	must(w.t, err)
	if meanwhile != nil {
		meanwhile(q, j.ID)
	}
	return follow(w.t, q, j.ID)
}

func follow(t *testing.T, q *job.Queue, id backstay.JobID) (last backstay.Job) {
	t.Helper()
	jobs, err := q.Follow(t.Context(), id)
	must(t, err)
	for j := range jobs {
		last = j
	}
	return last
}

func TestADeepChainLosesItsOldestPointBeforeTheNextIsTaken(t *testing.T) {
	w := newWorld(t)
	w.policy(func(p *backstay.Policy) { p.Snapshot.Depth = 3 })
	for range 5 {
		must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
		w.next()
		w.now = w.now.Add(time.Hour)
	}
	if !slices.Equal(w.dropped, []backstay.PointID{"P1", "P2"}) || len(w.taken) != 3 || w.depth != 3 {
		t.Errorf("dropped %v, %d left, the tier was told %d", w.dropped, len(w.taken), w.depth)
	}
	if all := w.points(); len(all) != 5 || all["P1"].Has(backstay.SnapshotTier) || !all["P1"].Has(backstay.VaultTier) {
		t.Errorf("points %+v", all)
	}
	if len(w.notes) == 0 || !strings.Contains(w.notes[0], "P1") {
		t.Errorf("notes %q", w.notes)
	}
}

func TestWhatIsPinnedUsedOrOnItsWayIsNotDroppedAndSaidToBeInTheWay(t *testing.T) {
	w := newWorld(t)
	w.policy(func(p *backstay.Policy) { p.Snapshot.Depth = 3 })
	for range 3 {
		must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
		w.next()
		w.now = w.now.Add(time.Hour)
	}
	change := func(id backstay.PointID, fn func(*backstay.RecoveryPoint)) {
		must(t, w.catalog.Points.ChangePoint(t.Context(), id, func(p *backstay.RecoveryPoint) error { fn(p); return nil }))
	}
	change("P1", func(p *backstay.RecoveryPoint) { p.Pinned = true })
	w.inUse["P2"] = "VM copy was restored on it"
	change("P3", func(p *backstay.RecoveryPoint) {
		p.DropTier(backstay.VaultTier)
		p.SetTier(backstay.VaultTier, backstay.TierCreating, w.now)
	})
	err := w.live(backstay.BackupParams{VM: "uuid-1"})
	if !backstay.IsCode(err, backstay.CodeTooDeep) {
		t.Fatalf("%v", err)
	}
	for _, want := range []string{"P1: it is pinned", "P2: VM copy was restored on it", "P3: job JJJ carries it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
	if len(w.taken) != 3 || !w.points()["P2"].Has(backstay.SnapshotTier) {
		t.Errorf("left %d points; P2 %+v", len(w.taken), w.points()["P2"].Tiers)
	}
	delete(w.inUse, "P2")
	w.next()
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if !slices.Equal(w.dropped, []backstay.PointID{"P2"}) {
		t.Errorf("dropped %v", w.dropped)
	}
}

// A backup never fails, waits or loses another point because somebody browses one.
func TestASessionOnAFullChainGivesWayToTheBackup(t *testing.T) {
	w := newWorld(t)
	w.policy(func(p *backstay.Policy) { p.Snapshot.Depth = 3 })
	for range 3 {
		must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
		w.next()
		w.now = w.now.Add(time.Hour)
	}
	w.inUse["P1"] = "session S1 of ann reads it"
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if !slices.Equal(w.dropped, []backstay.PointID{"P1"}) || len(w.ended) != 1 || !strings.Contains(w.ended[0], "a backup of its VM needed the room") {
		t.Errorf("dropped %v; sessions were told %q", w.dropped, w.ended)
	}
}

func TestThePointThatTheNextChangeMapNeedsGoesLast(t *testing.T) {
	at := func(id string, hour int, tiers ...backstay.Tier) backstay.RecoveryPoint {
		p := backstay.RecoveryPoint{ID: backstay.PointID(id), Time: time.Unix(int64(hour)*3600, 0), VM: backstay.VMRef{Host: "east"}}
		for _, tier := range tiers {
			p.SetTier(tier, backstay.TierAvailable, p.Time)
		}
		return p
	}
	order, kept := toDrop([]backstay.RecoveryPoint{
		at("newest", 5, backstay.SnapshotTier), at("in the vault", 1, backstay.SnapshotTier, backstay.VaultTier),
		at("old", 0, backstay.SnapshotTier), at("skipped", 3, backstay.SnapshotTier), at("not here", 2, backstay.VaultTier),
	}, time.Unix(1e6, 0))
	var ids []string
	for _, p := range order {
		ids = append(ids, string(p.ID))
	}
	if got := strings.Join(ids, ", "); got != "old, skipped, in the vault, newest" || len(kept) != 0 {
		t.Errorf("order %s, kept %v", got, kept)
	}
}

func TestEachRunMakesTheCatalogueAgreeWithWhatLiesBesideTheDisks(t *testing.T) {
	w := newWorld(t)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.SnapshotTier} {
		w.next()
		must(t, w.live(backstay.BackupParams{VM: "uuid-1", Tier: tier}))
	}
	// P1 and P2 are gone, and only of P1 the host is sure; P3 is not in the catalogue.
	delete(w.taken, "P1")
	delete(w.taken, "P2")
	w.lost["P1"] = "layer file vda.1 is not there"
	must(t, w.catalog.Points.DeletePoint(t.Context(), "P3"))
	w.next()
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	all := w.points()
	if all["P1"].Has(backstay.SnapshotTier) || !all["P1"].Has(backstay.VaultTier) {
		t.Errorf("P1, which is lost: %+v", all["P1"].Tiers)
	}
	if !all["P2"].Has(backstay.SnapshotTier) {
		t.Errorf("P2, of which nobody is sure: %+v", all["P2"].Tiers)
	}
	if p := all["P3"]; !p.Has(backstay.SnapshotTier) || p.Vault != "default" || p.VM.Host != "east" {
		t.Errorf("P3, which was found: %+v", p)
	}
	if len(w.warnings) != 1 || !strings.Contains(w.warnings[0], "P1") || !strings.Contains(w.warnings[0], "vda.1") {
		t.Errorf("warnings %q", w.warnings)
	}
}

func TestAListingThatFailsTakesNothingOutOfTheCatalogue(t *testing.T) {
	w := newWorld(t)
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	w.taken, w.lost["P1"], w.unlisted = map[backstay.PointID]mover.Taken{}, "it is not there", errors.New("the folder cannot be read")
	w.next()
	if err := w.live(backstay.BackupParams{VM: "uuid-1"}); err == nil {
		t.Error("a backup went on without knowing what is there")
	}
	if !w.points()["P1"].Has(backstay.SnapshotTier) {
		t.Error("a point was taken out of the catalogue")
	}
}

func TestThePointRecordsWhatIsNotInItAndWhy(t *testing.T) {
	w := newWorld(t)
	must(t, w.catalog.Items.ChangeItem(t.Context(), "uuid-1", func(i *backstay.ProtectedItem) error {
		i.Excluded = []backstay.DiskTarget{"vdb"}
		return nil
	}))
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	out := w.points()["P1"].Disks[1:]
	if len(out) != 2 || out[0].Target != "vdb" || !out[0].Excluded || out[0].Reason == "" || out[1].Target != "sda" || out[1].Excluded {
		t.Errorf("left out: %+v", out)
	}
	if len(w.leftOut) != 2 {
		t.Errorf("the vault was told of %+v", w.leftOut)
	}
	if made := w.job.Result.Backups; len(made) != 1 || !slices.Equal(made[0].Disks, []backstay.DiskTarget{"vda"}) || len(made[0].Excluded) != 2 {
		t.Errorf("result %+v", made)
	}
}

func TestThePolicyAndTheCallerSayWhatConsistencyIsWishedFor(t *testing.T) {
	w := newWorld(t)
	w.policy(func(p *backstay.Policy) {
		p.Fallback = []backstay.Consistency{backstay.CrashConsistent}
		p.Guest.SkipMounts = []string{"/scratch"}
	})
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	r := w.request
	if r.Consistency != backstay.FileSystemConsistent || len(r.Fallback) != 1 || !slices.Equal(r.Guest.SkipMounts, []string{"/scratch"}) {
		t.Errorf("by the policy: %+v", r)
	}
	w.next()
	must(t, w.live(backstay.BackupParams{VM: "uuid-1", Consistency: backstay.CrashConsistent}))
	if w.request.Consistency != backstay.CrashConsistent {
		t.Errorf("as asked for: %+v", w.request)
	}
}

func TestWhatAReleaseBeforeGroupsSavedIsGoneOnWith(t *testing.T) {
	w := newWorld(t)
	w.killAt = "transfer"
	_ = w.live(backstay.BackupParams{VM: "uuid-1"})
	var s struct {
		Members []struct {
			Point backstay.PointID
			Plan  Plan
			Packs []string
		}
	}
	must(t, json.Unmarshal(w.saved, &s))
	old, err := json.Marshal(map[string]any{"point": s.Members[0].Point, "plan": s.Members[0].Plan, "packs": s.Members[0].Packs, "attempted": true})
	must(t, err)
	w.saved = old
	must(t, w.live(backstay.BackupParams{VM: "uuid-1"}))
	if all := w.points(); len(all) != 1 || !all["P1"].Has(backstay.VaultTier) || !slices.Equal(w.packs, []string{"pack-1"}) {
		t.Errorf("points %+v, told of %v", all, w.packs)
	}
}

// policy changes the world's policy.
func (w *world) policy(change func(*backstay.Policy)) {
	p, err := w.catalog.Policies.Policy(w.t.Context(), "daily")
	must(w.t, err)
	change(&p)
	must(w.t, w.catalog.Policies.UpdatePolicy(w.t.Context(), p))
}
