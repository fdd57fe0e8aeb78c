package daemon

import (
	"bytes"
	"context"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

var errKilled = errors.New("the process was killed")

// mortalHolder is another region's holder, before one call of which the process
// that calls it is killed.
type mortalHolder struct {
	pair.Holder
	calls, kill int
}

func (h *mortalHolder) alive() error {
	if h.calls++; h.kill > 0 && h.calls >= h.kill {
		return errKilled
	}
	return nil
}

func (h *mortalHolder) Offer(ctx context.Context, o pair.Offer) (pair.Held, error) {
	if err := h.alive(); err != nil {
		return pair.Held{}, err
	}
	return h.Holder.Offer(ctx, o)
}

func (h *mortalHolder) Lacks(ctx context.Context, id string, objects []pair.Object) ([]string, error) {
	if err := h.alive(); err != nil {
		return nil, err
	}
	return h.Holder.Lacks(ctx, id, objects)
}

func (h *mortalHolder) Put(ctx context.Context, id string, o pair.Object, content io.Reader) error {
	if err := h.alive(); err != nil {
		// Killed in the middle: half of it came.
		_ = h.Holder.Put(ctx, id, o, io.LimitReader(content, o.Size/2))
		return err
	}
	return h.Holder.Put(ctx, id, o, content)
}

func (h *mortalHolder) Complete(ctx context.Context, id string, point backstay.PointID, manifest []byte) error {
	if err := h.alive(); err != nil {
		return err
	}
	return h.Holder.Complete(ctx, id, point, manifest)
}

// oneRun is a job without a queue.
type oneRun struct {
	backstay.LongRun
	job backstay.Job
}

func (r *oneRun) Job() backstay.Job { return r.job }
func (r *oneRun) Step(ctx context.Context, _ string, fn func(context.Context) error) error {
	return fn(ctx)
}
func (r *oneRun) Progress(int64, int64)     {}
func (r *oneRun) Note(string, string) error { return nil }
func (r *oneRun) Warn(text string) error {
	r.job.Warnings = append(r.job.Warnings, text)
	return nil
}
func (r *oneRun) Update(change func(*backstay.Job)) error { change(&r.job); return nil }

// diskContent is a disk in memory.
type diskContent struct{ *bytes.Reader }

func (diskContent) Close() error { return nil }
func (diskContent) Extents(offset, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, nil
}

// filled commits a point of a disk.
func (w *witnessed) filled(id backstay.PointID, disk []byte) {
	w.t.Helper()
	ctx := w.t.Context()
	access, err := w.writing(ctx, w.name)
	w.must(err)
	opened, err := w.openVault(ctx, access)
	w.must(err)
	defer func() { _ = opened.Close() }()
	writer, err := opened.Begin(ctx, vault.WriteOptions{Point: id})
	w.must(err)
	defer writer.Abort()
	_, err = writer.WriteDisk(ctx, vault.DiskSource{Target: "vda", Format: "raw", Image: diskContent{bytes.NewReader(disk)}})
	w.must(err)
	facts := backstay.RecoveryPoint{ID: id, Vault: w.name, Time: time.Now().UTC(), VM: backstay.VMRef{UUID: "u", Name: "web01"},
		Tiers: []backstay.PointTier{{Tier: backstay.VaultTier, State: backstay.TierAvailable}}}
	stats, err := writer.Commit(ctx, facts, tier.Definition{})
	w.must(err)
	w.must(w.catalog.Points.PutPoint(ctx, facts))
	w.must(w.saw(ctx, w.name, stats.Head))
}

// replicating is west with what pushes to east.
func (w *witnessed) replicating(to pair.Holder, east *region) *replication {
	w.t.Helper()
	ctx := w.t.Context()
	w.must(w.change(ctx, "main", func(v *backstay.Vault) bool {
		v.Redundancy = backstay.GRS
		return true
	}))
	recipient, err := east.vaults.recipient(ctx)
	w.must(err)
	w.must(w.catalog.Regions.ChangeRegions(ctx, func(known map[backstay.RegionName]catalog.RegionRecord) error {
		known["east"] = catalog.RegionRecord{Region: backstay.Region{Name: "east", Address: "east:7071", Fingerprint: "ab", Recipient: recipient, Paired: time.Now()}}
		return nil
	}))
	r := &region{catalog: w.catalog, vaults: w.vaults, log: slog.New(slog.DiscardHandler), regions: &regions{catalog: w.catalog, now: utcNow}}
	p := newReplication(r)
	p.runner.AtOnce, p.runner.Patience = 1, nil
	p.runner.Holder = func(context.Context, backstay.RegionName) (pair.Holder, error) { return to, nil }
	vaults, err := p.replicated(ctx)
	w.must(err)
	if len(vaults) != 1 || vaults[0].Pair != "east" {
		w.t.Fatalf("the vaults that are replicated are %+v", vaults)
	}
	return p
}

// offers returns the points that a region offers of a replica, each read back to its
// last byte.
func (r *region) offers(t *testing.T, name backstay.VaultName) map[backstay.PointID][]byte {
	t.Helper()
	ctx := t.Context()
	points, err := r.catalog.Points.ListPoints(ctx, "")
	if err != nil {
		t.Fatal(err)
	}
	out := map[backstay.PointID][]byte{}
	for _, p := range points {
		if p.Vault != name || !p.Has(backstay.VaultTier) {
			continue
		}
		opened, err := r.vaults.open(ctx, name)
		if err != nil {
			t.Fatal(err)
		}
		point, err := opened.OpenPoint(ctx, p.ID)
		if err != nil {
			t.Fatalf("point %s is offered and cannot be opened: %v", p.ID, err)
		}
		image, err := point.Disk(ctx, "vda")
		if err != nil {
			t.Fatal(err)
		}
		data := make([]byte, image.Size())
		if _, err := image.ReadAt(data, 0); err != nil {
			t.Fatalf("point %s is offered and cannot be read: %v", p.ID, err)
		}
		out[p.ID] = data
		_ = opened.Close()
	}
	return out
}

func noise(seed uint64, n int) []byte {
	r := rand.New(rand.NewPCG(seed, 1))
	data := make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// TestARegionKilledAtEveryStepOfAReplicationLeavesWholePoints: the home region's
// process is killed before each of its calls, also in the middle of an object. What
// the other region offers then can be read there to the last byte, with its own
// units and its own key; and the next job brings the rest.
func TestARegionKilledAtEveryStepOfAReplicationLeavesWholePoints(t *testing.T) {
	older := noise(1, 3<<19)
	newer := slices.Concat(older[:1<<20], noise(2, 1<<19))
	for kill := 1; ; kill += 1 + kill/4 {
		west, east := newWitnessed(t), newEast(t)
		west.filled(firstPoint, older)
		west.filled(secondPoint, newer)
		h := &mortalHolder{Holder: east.holder("west"), kill: kill}
		p := west.replicating(h, east)
		params := backstay.ReplicateParams{Vault: "main", Region: "east"}
		err := p.run(t.Context(), &oneRun{}, params)
		if err != nil && !errors.Is(err, errKilled) {
			t.Fatalf("killed before call %d: %v", kill, err)
		}
		whole := err == nil
		for id, data := range east.offers(t, "main@west") {
			if !bytes.Equal(data, map[backstay.PointID][]byte{firstPoint: older, secondPoint: newer}[id]) {
				t.Fatalf("killed before call %d: point %s is another one there", kill, id)
			}
			if _, ok := east.offers(t, "main@west")[secondPoint]; !ok {
				t.Fatalf("killed before call %d: an older point is there and the newest is not", kill)
			}
		}
		h.kill = 0
		run := &oneRun{}
		west.must(p.run(t.Context(), run, params))
		if got := east.offers(t, "main@west"); len(got) != 2 || len(run.job.Warnings) > 0 {
			t.Fatalf("killed before call %d: %d points are there in the end, warnings %q", kill, len(got), run.job.Warnings)
		}
		status, err := p.runner.Status(t.Context(), params)
		west.must(err)
		if status.Available != 2 || status.BacklogBytes != 0 || status.Newest == nil || *status.Newest != secondPoint || status.LagSeconds != 0 {
			t.Fatalf("status %+v", status)
		}
		if whole {
			if kill < 8 {
				t.Fatalf("a replication makes %d calls only", kill)
			}
			return
		}
	}
}

// TestWhatHappensAtHomeTakesNothingAwayThere: a point is dropped at home, its packs
// are reclaimed and what is left is moved. The other region goes on offering it, and
// what comes later is whole there too (I11).
func TestWhatHappensAtHomeTakesNothingAwayThere(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	first, second := noise(3, 9<<20), noise(4, 9<<20)
	copy(second[:3<<20], first)
	west.filled(firstPoint, first)
	p := west.replicating(east.holder("west"), east)
	params := backstay.ReplicateParams{Vault: "main", Region: "east"}
	west.must(p.run(ctx, &oneRun{}, params))
	west.filled(secondPoint, second)
	opened, err := west.openToWrite(ctx, "main")
	west.must(err)
	west.must(opened.DropPoint(ctx, firstPoint, time.Now()))
	r := opened.Reclaim(vault.ReclaimOptions{Now: time.Now(), LiveFraction: 0.95})
	moved, err := r.Repack(ctx)
	west.must(err)
	_, err = r.Condemn(ctx)
	west.must(err)
	lists, err := r.Lists(ctx)
	west.must(err)
	for _, list := range lists {
		_, _, err := r.Delete(ctx, list.ID)
		west.must(err)
	}
	if moved.Objects == 0 || len(lists) == 0 {
		t.Fatalf("moved %+v, lists %+v", moved, lists)
	}
	west.must(west.witness(ctx, "main", opened))
	west.must(opened.Close())
	run := &oneRun{}
	west.must(p.run(ctx, run, params))
	got := east.offers(t, "main@west")
	if !bytes.Equal(got[firstPoint], first) || !bytes.Equal(got[secondPoint], second) || len(run.job.Warnings) > 0 {
		t.Fatalf("there are %d points, warnings %q", len(got), run.job.Warnings)
	}
}

// TestAPausedReplicationSaysSoAndPushesNothing: in the job that runs, and in the
// status.
func TestAPausedReplicationSaysSoAndPushesNothing(t *testing.T) {
	ctx := t.Context()
	west, east := newWitnessed(t), newEast(t)
	west.filled(firstPoint, noise(5, 1<<20))
	h := &mortalHolder{Holder: east.holder("west")}
	p := west.replicating(h, east)
	if _, err := p.PauseReplication(ctx, "east", true); err != nil {
		t.Fatal(err)
	}
	if _, err := p.PauseReplication(ctx, "north", true); !backstay.IsCode(err, backstay.CodeUnknownRegion) {
		t.Fatalf("an unknown region: %v", err)
	}
	west.must(p.run(ctx, &oneRun{}, backstay.ReplicateParams{Vault: "main", Region: "east"}))
	status, err := p.Replications(ctx)
	west.must(err)
	if h.calls > 0 || len(status) != 1 || status[0].State != "paused" || !strings.Contains(status[0].Reason, "paused") || status[0].Points != 1 {
		t.Fatalf("%d calls, status %+v", h.calls, status)
	}
}
