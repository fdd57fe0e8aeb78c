package host

import (
	"bytes"
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/mover"
)

// smallWindows lets the small disks of tests be written in many windows.
func smallWindows(t *testing.T) {
	was := windows
	windows.least, windows.look = 128<<10, 1<<20
	t.Cleanup(func() { windows = was })
}

// impatient lets a restore wait for its vault no longer than tests do.
func impatient(t *testing.T, total time.Duration) {
	was := patience
	patience.first, patience.most, patience.total = time.Millisecond, time.Millisecond, total
	t.Cleanup(func() { patience = was })
}

// copyTree is what a kill leaves on the disk: all files as they are now.
func copyTree(t *testing.T, from, to string, only ...func(path string) bool) {
	t.Helper()
	must(t, filepath.WalkDir(from, func(path string, e fs.DirEntry, err error) error {
		if errors.Is(err, fs.ErrNotExist) { // a temporary file, renamed meanwhile
			return nil
		}
		if err != nil {
			return err
		}
		rel, err := filepath.Rel(from, path)
		if err != nil {
			return err
		}
		if e.IsDir() {
			return os.MkdirAll(filepath.Join(to, rel), 0o700)
		}
		if len(only) > 0 && !only[0](path) {
			return nil
		}
		data, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) {
			return nil
		}
		if err != nil {
			return err
		}
		return os.WriteFile(filepath.Join(to, rel), data, 0o600)
	}))
}

// sameFiles makes the files of a copied tree those that the journal knows.
func (w *testWorld) sameFiles(job backstay.JobID) {
	w.t.Helper()
	j, err := w.host.loadJournal(job)
	must(w.t, err)
	if j == nil {
		return
	}
	for _, d := range j.Disks {
		if d.File != nil {
			id, err := identify(d.Path)
			must(w.t, err)
			d.File = &id
		}
	}
	must(w.t, j.write())
}

// TestAStageThatWasKilledGoesOnWhereItWas, at whatever write: no window that is
// durable is read again, a disk that was verified is not verified again, and the
// disks are those of the point.
func TestAStageThatWasKilledGoesOnWhereItWas(t *testing.T) {
	smallWindows(t)
	w := newTestWorld(t)
	want := w.contents()
	r := w.backup(backstay.VaultTier)
	kills, reports := 0, 0
	_, err := w.host.Stage(t.Context(), r, func(p mover.Report) {
		if reports++; reports%3 != 1 && p.Done < p.Total {
			return
		}
		journals, kept := w.path("state/restores"), w.path("kills/"+string(rune('a'+kills))+"/restores")
		copyTree(t, journals, kept, func(path string) bool { return filepath.Ext(path) == ".json" }) // first: it is written last
		copyTree(t, journals, kept, func(path string) bool { return filepath.Ext(path) != ".json" })
		copyTree(t, w.path("out"), w.path("kills/"+string(rune('a'+kills))+"/out"))
		kills++
	})
	must(t, err)
	must(t, w.host.Abandon(t.Context(), r))
	if kills < 5 {
		t.Fatalf("%d kills are no test", kills)
	}
	later, verified := 0, 0
	for kill := range kills {
		from := w.path("kills/" + string(rune('a'+kill)))
		copyTree(t, from+"/restores", w.path("state/restores"))
		copyTree(t, from+"/out", w.path("out"))
		w.sameFiles(r.Job)
		j, err := w.host.loadJournal(r.Job)
		must(t, err)
		var durable int64
		for _, d := range j.Disks {
			durable += d.Read
			if d.Verified {
				verified++
			}
		}
		begun := map[string]int64{}
		staged, err := w.host.Stage(t.Context(), r, func(p mover.Report) {
			if _, ok := begun[p.Phase]; !ok {
				begun[p.Phase] = p.Done
			}
		})
		must(t, err)
		if begun["write"] != durable {
			t.Errorf("killed at %d: it went on at %d, and %d bytes were durable", kill, begun["write"], durable)
		}
		if durable > 0 && durable < staged.BytesRead {
			later++
		}
		for _, d := range r.Plan.Disks {
			if !bytes.Equal(w.shownAs(d.Path, d.Format, d.Size), want[d.Target]) {
				t.Errorf("killed at %d: disk %s is not that of the point", kill, d.Target)
			}
		}
		must(t, w.host.Abandon(t.Context(), r))
		if left := w.left(); len(left) != 0 {
			t.Fatalf("left %v", left)
		}
	}
	if later == 0 || verified == 0 {
		t.Errorf("%d lives went on in the middle, %d disks were verified before", later, verified)
	}
}

// TestWhatAPowerCutTookOfAPartialDiskIsFoundAndWrittenAnew.
func TestWhatAPowerCutTookOfAPartialDiskIsFoundAndWrittenAnew(t *testing.T) {
	smallWindows(t)
	w := newTestWorld(t)
	want := w.contents()
	r := w.backup(backstay.VaultTier)
	w.cutOff(r, "verify")
	j, err := w.host.loadJournal(r.Job)
	must(t, err)
	raw := r.Plan.Disks[0]
	for _, d := range j.Disks { // the verified mark came after the cut
		d.Verified = false
	}
	must(t, j.write())
	f, err := os.OpenFile(raw.Path, os.O_WRONLY, 0)
	must(t, err)
	_, err = f.WriteAt(bytes.Repeat([]byte("lost"), 4096), 1<<20)
	must(t, errors.Join(err, f.Close()))
	_, err = w.host.Stage(t.Context(), r, nil)
	must(t, err)
	if !bytes.Equal(w.shownAs(raw.Path, raw.Format, raw.Size), want[raw.Target]) {
		t.Error("the disk is not that of the point")
	}
}

// cutOff lets whoever asked go away in a phase, without a cancel.
func (w *testWorld) cutOff(r mover.StageRequest, phase string) {
	w.t.Helper()
	ctx, cancel := context.WithCancelCause(w.t.Context())
	_, err := w.host.Stage(ctx, r, func(p mover.Report) {
		if p.Phase == phase && p.Done > 0 {
			cancel(backstay.ErrStopping)
		}
	})
	if !errors.Is(err, backstay.ErrStopping) {
		w.t.Fatalf("cut off: %v", err)
	}
}

// TestAForeignFileInPlaceOfAPartialDiskIsRefusedAndStays.
func TestAForeignFileInPlaceOfAPartialDiskIsRefusedAndStays(t *testing.T) {
	smallWindows(t)
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	w.cutOff(r, "write")
	mine := r.Plan.Disks[0].Path
	must(t, os.WriteFile(mine+".mine", []byte("mine"), 0o600))
	must(t, os.Rename(mine+".mine", mine))
	if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("%v, want code preflight-refused", err)
	}
	must(t, w.host.Abandon(t.Context(), r))
	if data, err := os.ReadFile(mine); err != nil || string(data) != "mine" {
		t.Errorf("%q %v", data, err)
	}
	if left := w.left(); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestAStageWaitsForAVaultThatIsCutOff, says so, and goes on where it was.
func TestAStageWaitsForAVaultThatIsCutOff(t *testing.T) {
	smallWindows(t)
	impatient(t, time.Hour)
	w := newTestWorld(t)
	want := w.contents()
	r := w.backup(backstay.VaultTier)
	cut := &fault.Fault{Kind: fault.Fail, Call: fault.Get, Prefix: "packs/", Nth: 3, Onwards: true}
	below := w.store
	w.store = fault.Wrap(onlyCopy{below}, cut)
	var notes []string
	var once sync.Once
	_, err := w.host.Stage(t.Context(), r, func(p mover.Report) {
		if p.Note != "" {
			notes = append(notes, p.Note)
			once.Do(func() { w.store = below }) // it is back
		}
	})
	must(t, err)
	if len(notes) != 1 || !strings.Contains(notes[0], "the vault does not answer") || cut.Hits() == 0 {
		t.Errorf("notes %q, %d requests were cut", notes, cut.Hits())
	}
	for _, d := range r.Plan.Disks {
		if !bytes.Equal(w.shownAs(d.Path, d.Format, d.Size), want[d.Target]) {
			t.Errorf("disk %s is not that of the point", d.Target)
		}
	}
}

// onlyCopy hides that a store has copies, so that a fault is met by all of them.
type onlyCopy struct{ blob.Store }

// TestARetryGoesOnFromWhatAVaultThatStayedAwayLeft: the failure is named, what was
// written stays for a job of the same plan alone, and goes after a day.
func TestARetryGoesOnFromWhatAVaultThatStayedAwayLeft(t *testing.T) {
	smallWindows(t)
	impatient(t, 3*time.Millisecond)
	w := newTestWorld(t)
	want := w.contents()
	r := w.backup(backstay.VaultTier)
	below := w.store
	stayAway := func() {
		w.store = fault.Wrap(onlyCopy{below}, &fault.Fault{Kind: fault.Fail, Call: fault.Get, Prefix: "packs/", Nth: 6, Onwards: true})
	}
	stayAway()
	if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeVaultAway) {
		t.Fatalf("%v, want code vault-away", err)
	}
	w.store = below
	j, err := w.host.loadJournal(r.Job)
	must(t, err)
	var durable int64
	for _, d := range j.Disks {
		durable += d.Read
	}
	if durable == 0 {
		t.Fatal("nothing was written before the vault went away")
	}
	other := r
	other.Job += "1"
	other.Plan.UUID = backstay.VMID("5d3f6a60-0000-4000-8000-00000000dead")
	if _, err := w.host.Stage(t.Context(), other, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("another plan took over: %v", err)
	}
	fewer := r // of which the other disk would stay as it was left, half written
	fewer.Job, fewer.Plan.Disks = r.Job+"3", r.Plan.Disks[:1]
	if _, err := w.host.Stage(t.Context(), fewer, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("a plan of fewer disks took over: %v", err)
	}
	_, err = w.host.Sweep(t.Context(), nil)
	must(t, err)
	retry := r
	retry.Job += "2"
	begun := int64(-1)
	_, err = w.host.Stage(t.Context(), retry, func(p mover.Report) {
		if begun < 0 {
			begun = p.Done
		}
	})
	must(t, err)
	if begun != durable {
		t.Errorf("the retry went on at %d, and %d bytes were durable", begun, durable)
	}
	for _, d := range r.Plan.Disks {
		if !bytes.Equal(w.shownAs(d.Path, d.Format, d.Size), want[d.Target]) {
			t.Errorf("disk %s is not that of the point", d.Target)
		}
	}
	must(t, w.host.Abandon(t.Context(), retry))
	stayAway()
	_, err = w.host.Stage(t.Context(), r, nil)
	w.store = below
	if len(w.left()) == 0 || err == nil {
		t.Fatalf("nothing was left: %v", err)
	}
	now := w.host.now
	w.host.now = func() time.Time { return now().Add(leftFor) }
	_, err = w.host.Sweep(t.Context(), nil)
	must(t, err)
	if left := w.left(); len(left) != 0 {
		t.Errorf("left after a day: %v", left)
	}
}

// TestADamagedCopyIsNamedAndAnotherOneUsed; damaged everywhere, nothing is served
// or kept, and the disk and the place are named (I4).
func TestADamagedCopyIsNamedAndAnotherOneUsed(t *testing.T) {
	w := newTestWorld(t)
	want := w.contents()
	copies := []blob.Store{mem.New(), mem.New()}
	w.store = replica.New(copies...)
	must(t, w.newVault())
	r := w.backup(backstay.VaultTier)
	rotten := func() *fault.Fault { return &fault.Fault{Kind: fault.Corrupt, Call: fault.Get, Prefix: "packs/"} }
	w.store = replica.New(fault.Wrap(copies[0], rotten()), copies[1])
	staged, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	if !slices.ContainsFunc(staged.Warnings, func(s string) bool { return strings.Contains(s, "packs/") && strings.Contains(s, "damaged") }) {
		t.Errorf("warnings %q", staged.Warnings)
	}
	for _, d := range r.Plan.Disks {
		if !bytes.Equal(w.shownAs(d.Path, d.Format, d.Size), want[d.Target]) {
			t.Errorf("disk %s is not that of the point", d.Target)
		}
	}
	must(t, w.host.Abandon(t.Context(), r))
	w.store = replica.New(fault.Wrap(copies[0], rotten()), fault.Wrap(copies[1], rotten()))
	_, err = w.host.Stage(t.Context(), r, nil)
	if !backstay.IsCode(err, backstay.CodeDamaged) || !strings.Contains(err.Error(), "disk vd") {
		t.Errorf("%v, want code damaged with the disk", err)
	}
	if left := w.left(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestTwoRestoresOfOnePointAtOnce: each gets its own disks.
func TestTwoRestoresOfOnePointAtOnce(t *testing.T) {
	smallWindows(t)
	w := newTestWorld(t)
	want := w.contents()
	first := w.backup(backstay.VaultTier)
	second := first
	second.Job, second.Plan.Name, second.Plan.UUID = first.Job+"2", "copy2", backstay.VMID("5d3f6a60-0000-4000-8000-00000000dead")
	second.Plan.Disks = slices.Clone(first.Plan.Disks)
	for i := range second.Plan.Disks {
		second.Plan.Disks[i].Path += ".second"
	}
	var wg sync.WaitGroup
	for _, r := range []mover.StageRequest{first, second} {
		wg.Go(func() {
			if _, err := w.host.Stage(t.Context(), r, nil); err != nil {
				t.Error(err)
			}
		})
	}
	wg.Wait()
	for _, d := range slices.Concat(first.Plan.Disks, second.Plan.Disks) {
		if !bytes.Equal(w.shownAs(d.Path, d.Format, d.Size), want[d.Target]) {
			t.Errorf("%s is not the disk of the point", d.Path)
		}
	}
}
