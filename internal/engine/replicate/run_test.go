package replicate

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// at returns where in the order of puts something is, or fails.
func (w *world) at(name string) int {
	w.t.Helper()
	i := slices.Index(w.holder.puts, name)
	if i < 0 {
		w.t.Fatalf("%s was not put: %v", name, w.holder.puts)
	}
	return i
}

func TestTheNewestPointIsWholeBeforeAnythingOfAnOlderOneIsSent(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a", "b")
	w.commit(2, "a", "c")
	w.commit(3, "c", "d")
	w.pushed()
	want := []string{"keys/a", "vault.json", "packs/c", "packs/d", "indexes/1", "indexes/2", "indexes/3", "points/" + string(id(3)),
		"packs/a", "points/" + string(id(2)), "packs/b", "points/" + string(id(1)), "chain/1", "chain/2", "chain/3"}
	if !slices.Equal(w.holder.puts, want) {
		t.Fatalf("the order is\n%v, want\n%v", w.holder.puts, want)
	}
	for n := range 3 {
		if got := w.states()[id(n+1)]; got != backstay.ReplicaAvailable {
			t.Fatalf("point %d is %q", n+1, got)
		}
	}
	// Once more: there is nothing to send, and nothing is read for it.
	w.source.reads, w.holder.puts = 0, nil
	w.pushed()
	if len(w.holder.puts) > 0 || w.source.reads > 0 {
		t.Fatalf("a second job put %v and read %d objects", w.holder.puts, w.source.reads)
	}
}

// The job is cut off before each of its calls of the other region, and each time
// another goes on: what is offered there is whole at any time, everything arrives,
// and nothing that had arrived is sent again.
func TestAJobThatIsCutOffAnywhereIsGoneOnWith(t *testing.T) {
	for kill := 1; ; kill++ {
		w := newWorld(t)
		w.commit(1, "a", "b")
		w.commit(2, "a", "c")
		died := false
		w.holder.before = func(call int, _ string) error {
			if died = died || call == kill; died {
				return errKilled
			}
			return nil
		}
		_, err := w.push()
		if !died {
			w.must(err)
			if kill < 10 {
				t.Fatalf("a job makes %d calls only", kill-1)
			}
			return
		}
		if !errors.Is(err, errKilled) {
			t.Fatalf("killed before call %d: %v", kill, err)
		}
		w.holder.before = nil
		w.pushed()
		seen := map[string]bool{}
		for _, name := range w.holder.puts {
			if seen[name] {
				t.Fatalf("killed before call %d: %s is sent again", kill, name)
			}
			seen[name] = true
		}
		if got := w.states(); got[id(1)] != backstay.ReplicaAvailable || got[id(2)] != backstay.ReplicaAvailable || len(got) != 2 {
			t.Fatalf("killed before call %d: %v", kill, got)
		}
	}
}

// A point that comes while a backlog is pushed goes ahead at once, and what is on its
// way is given up. It is not itself interrupted: with one that comes after the other
// none would ever arrive.
func TestAPointThatIsNewerGoesAheadOfABacklog(t *testing.T) {
	w := newWorld(t)
	var old []string
	for i := range 30 {
		old = append(old, fmt.Sprintf("old%02d", i))
	}
	w.commit(1, old...)
	interrupted := false
	w.holder.before = func(_ int, what string) error {
		switch {
		case what == "put packs/old03" && !interrupted:
			interrupted = true
			w.commit(2, "new0", "new1", old[0])
			w.Nudge <- struct{}{}
			<-w.holder.ctx.Done()
		case what == "put packs/new0":
			w.commit(3, "newest")
		}
		return nil
	}
	w.pushed()
	order := []int{w.at("packs/old02"), w.at("packs/new0"), w.at("points/" + string(id(2))), w.at("packs/newest"), w.at("points/" + string(id(3))),
		w.at("packs/old03"), w.at("points/" + string(id(1)))}
	if !slices.IsSorted(order) {
		t.Fatalf("the order is %v: %v", order, w.holder.puts)
	}
}

func TestWhatTheOtherRegionLetGoIsNotSentAgain(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a")
	w.commit(2, "b")
	w.holder.held.Gone[id(1)] = start
	w.pushed()
	if slices.Contains(w.holder.puts, "packs/a") || w.states()[id(1)] != backstay.ReplicaGone {
		t.Fatalf("sent: %v, states: %v", w.holder.puts, w.states())
	}
}

// What is dropped here goes on being held there: nobody is told to delete anything,
// and only the catalogue of this region forgets it.
func TestAPointDroppedHereStaysThere(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a")
	w.commit(2, "b")
	w.pushed()
	delete(w.source.points, id(1))
	delete(w.source.objects, "packs/a")
	w.pushed()
	if _, ok := w.holder.held.Available[id(1)]; !ok || w.holder.objects["packs/a"] == nil {
		t.Fatal("the other region lost what was dropped here")
	}
	if got := w.states(); len(got) != 1 {
		t.Fatalf("the catalogue has %v", got)
	}
}

func TestADamagedPackHoldsUpNoOtherPoint(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a")
	w.commit(2, "bad")
	w.commit(3, "c")
	w.source.damaged["packs/bad"] = true
	run := w.pushed()
	if got := w.states(); got[id(1)] != backstay.ReplicaAvailable || got[id(3)] != backstay.ReplicaAvailable || got[id(2)] == backstay.ReplicaAvailable {
		t.Fatalf("states %v", got)
	}
	if len(run.job.Warnings) != 1 || !strings.Contains(run.job.Warnings[0], string(id(2))) {
		t.Fatalf("warnings %q", run.job.Warnings)
	}
}

// A pack that is reclaimed while the job is at it: the point was dropped, which is
// no failure; if it was not, the point is left out and the job says so.
func TestAPackThatGoesMeanwhileIsNoFailureIfItsPointIsDropped(t *testing.T) {
	for _, dropped := range []bool{true, false} {
		w := newWorld(t)
		w.commit(1, "a")
		w.commit(2, "b", "c")
		w.holder.before = func(_ int, what string) error {
			if what == "put packs/b" {
				w.source.mu.Lock()
				defer w.source.mu.Unlock()
				delete(w.source.objects, "packs/c")
				if dropped {
					delete(w.source.points, id(2))
				}
			}
			return nil
		}
		run := w.pushed()
		if w.states()[id(1)] != backstay.ReplicaAvailable {
			t.Fatalf("the other point is %v", w.states())
		}
		if warned := len(run.job.Warnings) > 0; warned == dropped {
			t.Fatalf("dropped %v: warnings %q", dropped, run.job.Warnings)
		}
	}
}

// What was taken to be there because a point that is whole needs it may have gone
// by the other region's own retention: then it is sent.
func TestWhatWentThereMeanwhileIsSentAgain(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a", "b")
	w.pushed()
	w.commit(2, "a", "c")
	w.holder.before = func(_ int, what string) error {
		if what == "put packs/c" {
			w.holder.mu.Lock()
			defer w.holder.mu.Unlock()
			delete(w.holder.objects, "packs/a")
		}
		return nil
	}
	w.pushed()
	if w.states()[id(2)] != backstay.ReplicaAvailable {
		t.Fatalf("states %v, put %v", w.states(), w.holder.puts)
	}
}

func TestWhenNothingMayBeSentTheJobEndsAndSaysWhy(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a", "b", "c")
	w.holder.before = func(_ int, what string) error {
		if what == "put packs/a" {
			w.pace.mu.Lock()
			defer w.pace.mu.Unlock()
			w.pace.shut = errors.New("the window opens at 22:00")
		}
		return nil
	}
	run := w.pushed()
	if slices.Contains(w.holder.puts, "packs/c") || !strings.Contains(run.note, "22:00") {
		t.Fatalf("put %v, note %q", w.holder.puts, run.note)
	}
	status, err := w.Status(t.Context(), params)
	w.must(err)
	if status.State != Waiting || !strings.Contains(status.Reason, "22:00") || status.BacklogObjects == 0 || status.BacklogBytes == 0 {
		t.Fatalf("status %+v", status)
	}
	w.pace.shut = nil
	w.pushed()
	if w.states()[id(1)] != backstay.ReplicaAvailable {
		t.Fatalf("states %v", w.states())
	}
}

func TestARegionThatIsAwayIsWaitedForAndThenNamed(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a", "b")
	away := backstay.Errorf(backstay.CodeRegionAway, "the region east cannot be reached")
	fails := 2
	w.holder.before = func(_ int, what string) error {
		if what == "put packs/b" && fails > 0 {
			fails--
			return away
		}
		return nil
	}
	w.pushed() // within its patience
	w.commit(2, "c")
	w.holder.before = func(int, string) error { return away }
	if _, err := w.push(); !backstay.IsCode(err, backstay.CodeRegionAway) {
		t.Fatalf("a region that stays away: %v", err)
	}
	status, err := w.Status(t.Context(), params)
	w.must(err)
	if status.State != Waiting || status.Available != 1 || status.Points != 2 || *status.Newest != id(1) || status.LagSeconds != 60 {
		t.Fatalf("status %+v", status)
	}
}

// Bytes that change on their way are refused there, and sent again.
func TestWhatIsRefusedOnceIsSentAgain(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a")
	refused := false
	w.holder.before = func(_ int, what string) error {
		if what == "put packs/a" && !refused {
			refused = true
			return backstay.Errorf(backstay.CodeReplicaRefused, "packs/a came with other bytes")
		}
		return nil
	}
	if run := w.pushed(); !refused || len(run.job.Warnings) > 0 || w.states()[id(1)] != backstay.ReplicaAvailable {
		t.Fatalf("warnings %q, states %v", run.job.Warnings, w.states())
	}
}

func TestARegionWithoutRoomEndsTheJob(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a", "b")
	w.holder.before = func(_ int, what string) error {
		if strings.HasPrefix(what, "put packs/") {
			return backstay.Errorf(backstay.CodeRegionQuota, "no room")
		}
		return nil
	}
	if _, err := w.push(); !backstay.IsCode(err, backstay.CodeRegionQuota) || w.holder.calls > 8 {
		t.Fatalf("after %d calls: %v", w.holder.calls, err)
	}
}

// Nothing is believed of what the other region says of points that are not ours,
// and no time that is yet to come.
func TestAnswersOfTheOtherRegionAreChecked(t *testing.T) {
	w := newWorld(t)
	w.commit(1, "a")
	w.holder.held.Available["01NOTOURS"] = start
	w.holder.held.Available[id(1)] = start.Add(1000 * time.Hour)
	w.pushed()
	records, err := w.Catalog.Replicas.ListReplicas(t.Context(), "main")
	w.must(err)
	if len(records) != 1 || records[0].At.After(w.now) || records[0].LagSeconds > 2*3600 {
		t.Fatalf("records %+v", records)
	}
	// What is not whole there any more is pushed anew.
	delete(w.holder.held.Available, id(1))
	w.holder.before = func(int, string) error { return backstay.Errorf(backstay.CodeRegionQuota, "no room") }
	_, _ = w.push()
	w.holder.before = nil
	w.pushed()
	if w.states()[id(1)] != backstay.ReplicaAvailable || len(w.holder.held.Available) != 2 {
		t.Fatalf("states %v", w.states())
	}
}

// A job is due when a point is missing, at once if the point is new; after a
// failure only in a while, unless it is that the region was away.
func TestWhenAJobIsDue(t *testing.T) {
	now := start
	point := func(n int, taken time.Duration) backstay.RecoveryPoint {
		return backstay.RecoveryPoint{ID: id(n), Time: now.Add(taken)}
	}
	there := []catalog.ReplicaRecord{{Point: id(1), Replica: backstay.Replica{Region: "east", State: backstay.ReplicaAvailable}}}
	job := func(state backstay.JobState, code backstay.Code, ago time.Duration) *backstay.Job {
		ended := now.Add(-ago)
		j := &backstay.Job{State: state, Created: ended.Add(-time.Minute), Ended: &ended}
		if code != "" {
			j.Error = backstay.Errorf(code, "why")
		}
		if !state.Ended() {
			j.Ended = nil
		}
		return j
	}
	old, fresh := point(2, -10*time.Hour), point(3, -time.Second)
	for _, c := range []struct {
		name   string
		points []backstay.RecoveryPoint
		last   *backstay.Job
		want   bool
	}{
		{"never pushed", nil, nil, true},
		{"all is there", []backstay.RecoveryPoint{point(1, -time.Hour)}, job(backstay.JobSucceeded, "", time.Minute), false},
		{"all is there, and it is time to ask", nil, job(backstay.JobSucceeded, "", time.Hour), true},
		{"a job is at it", []backstay.RecoveryPoint{fresh}, job(backstay.JobRunning, "", 0), false},
		{"new point", []backstay.RecoveryPoint{fresh}, job(backstay.JobFailed, backstay.CodeRegionQuota, time.Minute), true},
		{"missing after a window", []backstay.RecoveryPoint{old}, job(backstay.JobSucceeded, "", time.Minute), true},
		{"missing after a job that has just ended", []backstay.RecoveryPoint{old}, job(backstay.JobSucceeded, "", time.Second), false},
		{"a point of a clock that is ahead", []backstay.RecoveryPoint{point(3, time.Hour)}, job(backstay.JobWarning, "", time.Second), false},
		{"missing for want of room", []backstay.RecoveryPoint{old}, job(backstay.JobFailed, backstay.CodeRegionQuota, time.Minute), false},
		{"missing for want of room, later", []backstay.RecoveryPoint{old}, job(backstay.JobFailed, backstay.CodeRegionQuota, time.Hour), true},
		{"missing because it was away", []backstay.RecoveryPoint{old}, job(backstay.JobFailed, backstay.CodeRegionAway, time.Minute), true},
		{"missing because it is damaged", []backstay.RecoveryPoint{old}, job(backstay.JobWarning, "", time.Minute), false},
	} {
		if got := (Replicated{Points: c.points, Records: there, Last: c.last, Now: now}).Due("east"); got != c.want {
			t.Errorf("%s: due is %v", c.name, got)
		}
	}
}
