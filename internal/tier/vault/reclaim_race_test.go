package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// stages is how often a reclaim of a storied vault tells of a stage.
func stages(t *testing.T, origin *world) []vault.ReclaimStage {
	var seen []vault.ReclaimStage
	origin.again().reclaim(vault.ReclaimOptions{LiveFraction: 0.95, OnStage: func(s vault.ReclaimStage) { seen = append(seen, s) }})
	for _, want := range []vault.ReclaimStage{vault.StageLooked, vault.StagePacked, vault.StageIndexed, vault.StageMoved, vault.StageListed,
		vault.StageCondemned, vault.StageFenced, vault.StageChosen, vault.StageDeleted} {
		if !slices.Contains(seen, want) {
			t.Fatalf("no stage %s in %v", want, seen)
		}
	}
	return seen
}

// during runs a reclaim and calls fn at each stage with its number.
func (w *world) during(fn func(n int)) error {
	n := 0
	_, err := w.reclaimAll(w.open(w.store), vault.ReclaimOptions{LiveFraction: 0.95, OnStage: func(vault.ReclaimStage) {
		fn(n)
		n++
	}})
	return err
}

// TestAWriterOfAnyAgeIsSafeWhateverReclaimDoes has no leases: a writer whose
// lease was lost begins before one stage of a reclaim and commits at another. It
// refers to what a dropped point left, and to a parent that is being repacked.
// Either its point is offered and restores, or it is refused and not offered.
func TestAWriterOfAnyAgeIsSafeWhateverReclaimDoes(t *testing.T) {
	origin, k, ids := storied(t, 5)
	z := zombie{parent: ids[4], old: slices.Clone(k[ids[0]]), data: slices.Clone(k[ids[4]])}
	z.changed = change(123, z.data, 2)
	origin.drop(k, ids[0], ids[1], ids[3])
	all := stages(t, origin)
	committed, refused := 0, 0
	for from := range all {
		for to := from; to <= len(all); to++ {
			if (from*5+to)%3 > 0 && to-from > 1 && to < len(all) {
				continue // a third of the pairs is enough for every day
			}
			z := z
			z.world, z.id = origin.again(), newID()
			z.vault = z.open(z.store)
			what := fmt.Sprintf("begun when %s, committed at stage %d", all[from], to)
			if z.works(k, from, to) {
				committed++
			} else {
				refused++
			}
			for range 2 {
				z.offered(k)
				if _, err := z.reclaimAll(z.open(z.store), vault.ReclaimOptions{LiveFraction: 0.95}); err != nil {
					t.Fatalf("%s, and reclaimed again: %v", what, err)
				}
			}
		}
	}
	if committed == 0 || refused == 0 {
		t.Errorf("%d committed and %d refused: the test does not meet both", committed, refused)
	}
}

// zombie is a writer whose lease was lost.
type zombie struct {
	*world
	vault     *vault.Vault
	id        backstay.PointID
	parent    backstay.PointID
	old, data []byte
	changed   []backstay.Range
	packs     []string
	writer    *vault.Writer
}

// begin carries both disks over; done tells that an earlier attempt's manifest
// was there with all that it needs, and was finished.
func (z *zombie) begin(packs []string) (done bool) {
	z.t.Helper()
	o := vault.WriteOptions{Point: z.id, Parent: z.parent, Packs: packs, OnPack: func(p string) { z.packs = append(z.packs, p) }}
	w, err := z.vault.Begin(z.ctx, o)
	if z.writer != nil && backstay.IsCode(err, backstay.CodeExists) {
		return true
	}
	z.must(err)
	_, err = w.WriteDisk(z.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: z.data}, Changed: z.changed, HasMap: true})
	z.must(err)
	_, err = w.WriteDisk(z.ctx, vault.DiskSource{Target: "vdb", Image: &disk{data: z.old}})
	z.must(err)
	z.writer = w
	return false
}

// works runs a reclaim, begins at one of its stages and commits at another. If
// that is refused, only conflict is a reason, nothing is offered, and it tries again.
func (z *zombie) works(k kept, from, to int) (committed bool) {
	z.t.Helper()
	ended := false
	var err error
	commit := func() { _, err = z.writer.Commit(z.ctx, facts(z.id), definition) }
	z.must(z.during(func(n int) {
		if n == from {
			z.begin(nil)
		}
		if n == to {
			commit()
			ended = true
		}
	}))
	if !ended {
		commit()
	}
	if err == nil {
		return true
	}
	if !backstay.IsCode(err, backstay.CodeConflict) {
		z.t.Fatalf("begun at stage %d, committed at stage %d: %v", from, to, err)
	}
	k.checkIn(z.world, z.store)
	if !z.begin(z.packs) {
		commit()
		z.must(err)
	}
	return false
}

// offered demands that its point and all others restore.
func (z *zombie) offered(k kept) {
	z.t.Helper()
	v := z.open(z.store)
	z.restored(v, z.id, "vda", z.data)
	z.restored(v, z.id, "vdb", z.old)
	for id, want := range k {
		z.restored(v, id, "vda", want)
	}
}

func TestDroppingAPointMeanwhileHarmsNothing(t *testing.T) {
	origin, k, ids := storied(t, 5)
	origin.drop(k, ids[0], ids[3])
	for at := range stages(t, origin) {
		w, left := origin.again(), kept{}
		for id, data := range k {
			left[id] = data
		}
		w.must(w.during(func(n int) {
			if n == at {
				w.drop(left, ids[4])
			}
		}))
		w.reclaim(vault.ReclaimOptions{})
		left.checkIn(w, w.copies[at%3])
	}
}

func TestTwoReclaimsAtOnceHarmNothing(t *testing.T) {
	origin, k, ids := storied(t, 5)
	origin.drop(k, ids[0], ids[1], ids[3])
	for at, stage := range stages(t, origin) {
		w := origin.again()
		var inner error
		err := w.during(func(n int) {
			if n == at {
				_, inner = w.reclaimAll(w.open(w.store), vault.ReclaimOptions{LiveFraction: 0.95})
			}
		})
		// One of the two may find the ground moved under it and stop.
		for _, err := range []error{err, inner} {
			if err != nil && !backstay.IsCode(err, backstay.CodeReclaimStopped) && !backstay.IsCode(err, backstay.CodeConflict) {
				t.Errorf("a second one when %s: %v", stage, err)
			}
		}
		k.checkIn(w, w.store)
		w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
		k.checkIn(w, w.store)
	}
}

func TestAResumedTransferDoesNotUseWhatIsCondemned(t *testing.T) {
	w := newWorld(t)
	data := sparse(5, 20<<20)
	var packs []string
	id := newID()
	o := vault.WriteOptions{Point: id, OnPack: func(p string) { packs = append(packs, p) }}
	cut := func() {
		tr, err := w.vault.Begin(w.ctx, o)
		w.must(err)
		_, err = tr.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: data}})
		w.must(err)
		_, _ = tr.Commit(cancelled(w), facts(id), definition) // everything but the manifest
	}
	cut()
	if len(packs) == 0 || len(w.objects("points/")) > 0 {
		t.Fatalf("%d packs, points %v", len(packs), w.objects("points/"))
	}
	r := w.vault.Reclaim(vault.ReclaimOptions{Now: created})
	// What a job has in hand is left alone ...
	spared := w.vault.Reclaim(vault.ReclaimOptions{Now: created, Writing: writing(vault.Writing{Packs: packs})})
	if sum, err := spared.Condemn(w.ctx); err != nil || sum.Objects > 0 {
		t.Errorf("condemned %+v, %v", sum, err)
	}
	// ... and if it is not, it is not used.
	sum, err := r.Condemn(w.ctx)
	if err != nil || int(sum.Objects) != len(packs) {
		t.Fatalf("condemned %+v of %d, %v", sum, len(packs), err)
	}
	tr, err := w.vault.Begin(w.ctx, vault.WriteOptions{Point: id, Packs: packs})
	w.must(err)
	_, err = tr.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: data}})
	w.must(err)
	lists, err := r.Lists(w.ctx)
	w.must(err)
	_, _, err = r.Delete(w.ctx, lists[0].ID)
	w.must(err)
	_, err = tr.Commit(w.ctx, facts(id), definition)
	w.must(err)
	kept{id: data}.check(w)
}

func TestACondemnedPackThatIsNeededAgainIsRescued(t *testing.T) {
	w, k, ids := storied(t, 2)
	data := slices.Clone(k[ids[1]])
	id := newID()
	tr, err := w.vault.Begin(w.ctx, vault.WriteOptions{Point: id})
	w.must(err)
	_, err = tr.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Image: &disk{data: data}})
	w.must(err)
	w.drop(k, ids[0], ids[1])
	r := w.vault.Reclaim(vault.ReclaimOptions{Now: created})
	condemned, err := r.Condemn(w.ctx)
	w.must(err)
	_, err = tr.Commit(w.ctx, facts(id), definition) // it began before
	w.must(err)
	k[id] = data
	lists, err := r.Lists(w.ctx)
	w.must(err)
	deleted, rescued, err := r.Delete(w.ctx, lists[0].ID)
	w.must(err)
	if rescued.Objects == 0 || deleted.Objects+rescued.Objects != condemned.Objects {
		t.Errorf("condemned %+v, rescued %+v, deleted %+v", condemned, rescued, deleted)
	}
	k.check(w)
}

func TestACommitThatBrokeOffIsNotTakenFromWhoWillFinishIt(t *testing.T) {
	w, k, ids := storied(t, 2)
	// A manifest that the chain does not know: its writer died before the record.
	id, data := newID(), sparse(6, 1<<20)
	w.leaveManifest(id, ids[1], data)
	for _, o := range []vault.ReclaimOptions{{}, {Writing: writing(vault.Writing{Points: []backstay.PointID{id}})}} {
		w.reclaim(o)
	}
	k.check(w)
	finished := w.again()
	if _, err := finished.vault.Begin(w.ctx, vault.WriteOptions{Point: id}); !backstay.IsCode(err, backstay.CodeExists) {
		t.Fatalf("finish: %v", err)
	}
	finished.restored(finished.open(finished.store), id, "vda", data)
	// When nobody will finish it, it goes; and its writer, if it lives, is refused.
	w.reclaim(vault.ReclaimOptions{Writing: writing(vault.Writing{})})
	if _, err := w.copies[0].Stat(w.ctx, "points/"+string(id)); err == nil {
		t.Error("the manifest is still there")
	}
	if _, err := w.vault.Begin(w.ctx, vault.WriteOptions{Point: id}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("its writer: %v", err)
	}
	k.check(w)
}

// TestAReaderFromBeforeARepackFindsWhatWasMoved has a vault open that knows where
// everything was, and nothing of what came since.
func TestAReaderFromBeforeARepackFindsWhatWasMoved(t *testing.T) {
	w, k, ids := storied(t, 5)
	w.drop(k, ids[0], ids[1], ids[3])
	early, err := vault.Open(w.ctx, w.store, vaultID, w.master, vault.CacheBytes(1))
	w.must(err)
	w.must(early.ReadDirectories(w.ctx))
	var points []*vault.Point
	for _, id := range []backstay.PointID{ids[2], ids[4]} {
		p, err := early.OpenPoint(w.ctx, id)
		w.must(err)
		points = append(points, p)
	}
	if done, err := w.reclaimAll(w.open(w.store), vault.ReclaimOptions{LiveFraction: 0.95}); err != nil || done.Deleted.Objects == 0 {
		t.Fatal(done, err)
	}
	for i, id := range []backstay.PointID{ids[2], ids[4]} {
		img, err := points[i].Disk(w.ctx, "vda")
		w.must(err)
		got := make([]byte, img.Size())
		if _, err := img.ReadAt(got, 0); err != nil || !bytes.Equal(got, k[id]) {
			t.Errorf("point %d: %v", i, err)
		}
		w.restored(early, id, "vda", k[id])
	}
}

// TestARepackedPointIsReadWithAsFewRequestsAsAFreshOne: what was moved is not
// asked for where it was.
func TestARepackedPointIsReadWithAsFewRequestsAsAFreshOne(t *testing.T) {
	w, k, ids := storied(t, 5)
	w.drop(k, ids[0], ids[1], ids[3])
	requests := func() int {
		var counted []blob.Store
		n := 0
		for _, c := range w.copies {
			counted = append(counted, &countedCopy{c, &n})
		}
		v := w.open(replica.New(counted...))
		w.restored(v, ids[2], "vda", k[ids[2]])
		return n
	}
	before := requests()
	if done := w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95}); done.Deleted.Objects == 0 {
		t.Fatal(done)
	}
	// The chain, the list of moves, the index and the new packs' directories are all that is more.
	after := requests()
	if after > 2*before+16 {
		t.Errorf("%d requests, and %d before", after, before)
	}
}

// countedCopy counts reads, which come from several goroutines.
type countedCopy struct {
	blob.Store
	n *int
}

var counting sync.Mutex

func (c *countedCopy) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	counting.Lock()
	*c.n++
	counting.Unlock()
	return c.Store.Get(ctx, name, offset, length)
}

func (c *countedCopy) Stat(ctx context.Context, name string) (blob.Info, error) {
	counting.Lock()
	*c.n++
	counting.Unlock()
	return c.Store.Stat(ctx, name)
}

// TestACommitThatBrokeOffStopsNothing: what nobody may ever finish is kept as long
// as somebody might, and no more is made of it.
func TestACommitThatBrokeOffStopsNothing(t *testing.T) {
	w, k, ids := storied(t, 3)
	w.drop(k, ids[1])
	id := newID()
	before := w.objects("packs/")
	w.leaveManifest(id, ids[2], sparse(6, 1<<20))
	for _, name := range w.objects("packs/") {
		if !slices.Contains(before, name) {
			w.must(w.copies[1].Delete(w.ctx, name))
			w.copies[2].Replace(name, []byte("x"))
			w.copies[0].Replace(name, make([]byte, len(w.get(0, name))))
		}
	}
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.999})
	k.check(w)
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.999, Writing: writing(vault.Writing{})})
	if done := w.reclaim(vault.ReclaimOptions{}); done.Deleted.Objects == 0 {
		t.Errorf("nobody will finish it, and its packs stay: %+v", done)
	}
	k.check(w)
}

// TestAPointThatIsWrittenAnewIsNotLedByAMoveOfItsFirstAttempt lets the commit of a
// point break off, and has it written anew with other content, some of which lies
// in a pack that was repacked between.
func TestAPointThatIsWrittenAnewIsNotLedByAMoveOfItsFirstAttempt(t *testing.T) {
	w, k, ids := storied(t, 5)
	old := slices.Clone(k[ids[0]])
	w.drop(k, ids[0], ids[1], ids[3])
	id := newID()
	w.leaveManifest(id, ids[4], sparse(6, 1<<20))
	w.must(w.during(func(n int) {
		if n != 3 { // moved, and not condemned yet
			return
		}
		for _, c := range w.copies {
			w.must(c.Delete(w.ctx, "points/"+string(id)))
		}
		_, err := backup(w.ctx, w.open(w.store), vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: old}})
		w.must(err)
		k[id] = old
	}))
	k.check(w)
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95})
	k.check(w)
}

// leaveManifest leaves the manifest of a point and all that it needs, and no
// record in the chain: its writer died before.
func (w *world) leaveManifest(id, parent backstay.PointID, data []byte) {
	w.t.Helper()
	whole := w.again()
	whole.backup(vault.WriteOptions{Point: id, Parent: parent}, source{target: "vda", disk: &disk{data: data}})
	for name := range whole.snapshot() {
		name = name[2:]
		if _, err := w.copies[0].Stat(w.ctx, name); err != nil && name[:6] != "chain/" {
			for _, c := range w.copies {
				c.Replace(name, whole.get(0, name))
			}
		}
	}
}

func TestARepackPutsTheNewestPointsChunksInTheOrderOfTheDisk(t *testing.T) {
	w := newWorld(t)
	data := make([]byte, 20<<18)
	for i := range data {
		data[i] = byte(i >> 16)
	}
	var parent backstay.PointID
	k, all := kept{}, []backstay.PointID{}
	// The windows of the disk are written back to front, each by its own point.
	for i := 19; i >= 0; i-- {
		from := i << 18
		scribbleAll(uint64(200+i), data[from:from+1<<18])
		id := newID()
		w.backup(vault.WriteOptions{Point: id, Parent: parent}, source{target: "vda", disk: &disk{data: data},
			changed: []backstay.Range{{Offset: int64(from), Length: 1 << 18}}, mapped: i < 19})
		k[id], parent = slices.Clone(data), id
		all = append(all, id)
	}
	w.drop(k, all[:19]...)
	packs := len(w.objects("packs/"))
	plan, err := w.vault.Reclaim(vault.ReclaimOptions{Now: created}).Plan(w.ctx)
	w.must(err)
	if len(plan.Repack) == 0 {
		t.Fatalf("a disk that is read from %d packs is not repacked: %+v", packs, plan)
	}
	w.reclaim(vault.ReclaimOptions{})
	k.check(w)
	got, err := restore(w.ctx, w.open(w.store), all[19], "vda")
	w.must(err)
	if !bytes.Equal(got, data) || len(w.objects("packs/")) >= packs/2 {
		t.Errorf("%d packs of %d are left", len(w.objects("packs/")), packs)
	}
	order, err := w.vault.OrderOf(w.ctx, all[19], "vda")
	w.must(err)
	if !slices.IsSorted(order) || len(order) < 20 {
		t.Errorf("the disk's chunks lie at %v", order)
	}
	if again, err := w.vault.Reclaim(vault.ReclaimOptions{Now: created}).Plan(w.ctx); err != nil || len(again.Repack) > 0 {
		t.Errorf("a second run would move again: %+v, %v", again, err)
	}
}

func TestARepackThatIsCutOffUsesWhatItPut(t *testing.T) {
	origin, k, ids := storied(t, 5)
	origin.drop(k, ids[0], ids[1], ids[3])
	w := origin.again()
	var packs []string
	died := func() (err error) {
		defer func() {
			if recover() != nil {
				err = fmt.Errorf("died")
			}
		}()
		_, err = w.reclaimAll(w.vault, vault.ReclaimOptions{LiveFraction: 0.95, OnPack: func(id string) error {
			packs = append(packs, id)
			return nil
		}, OnStage: func(s vault.ReclaimStage) {
			if s == vault.StagePacked {
				panic("died")
			}
		}})
		return err
	}()
	if died == nil || len(packs) == 0 {
		t.Fatalf("%v, %d packs", died, len(packs))
	}
	k.check(w)
	before := len(w.objects("packs/"))
	o := vault.ReclaimOptions{LiveFraction: 0.95, Now: created, Packs: packs, OnPack: func(string) error {
		t.Error("what was put is put again")
		return nil
	}}
	if moved, err := w.open(w.store).Reclaim(o).Repack(w.ctx); err != nil || moved.Objects == 0 {
		t.Errorf("%+v, %v", moved, err)
	}
	if after := len(w.objects("packs/")); after != before {
		t.Errorf("%d packs, and %d before", after, before)
	}
	w.reclaim(vault.ReclaimOptions{LiveFraction: 0.95, Now: created.Add(time.Hour)})
	k.check(w)
}
