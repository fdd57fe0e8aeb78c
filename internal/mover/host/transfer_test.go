package host

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/mover"
)

// snapshotOf takes a point into the snapshot tier.
func (w *testWorld) snapshotOf(id backstay.PointID) map[backstay.DiskTarget]string {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.host.Prepare(ctx, mover.PrepareRequest{Job: testJob, Point: id, VM: sourceVM, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	must(w.t, err)
	sums := map[backstay.DiskTarget]string{}
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		sum := sha256.Sum256(w.content(sourceVM, target))
		sums[target] = hex.EncodeToString(sum[:])
	}
	_, err = w.host.Take(ctx, mover.TakeRequest{Job: testJob, Point: id, VM: sourceVM, Consistency: backstay.FileSystemConsistent, Time: instant})
	must(w.t, err)
	return sums
}

func (w *testWorld) transfer(id, parent backstay.PointID) mover.Transferred {
	w.t.Helper()
	done, err := w.host.Transfer(w.t.Context(), mover.TransferRequest{Job: testJob, Point: id, Parent: parent, Vault: w.access}, nil)
	must(w.t, err)
	return done
}

func (w *testWorld) holds(id backstay.PointID, tier backstay.Tier, sums map[backstay.DiskTarget]string) {
	w.t.Helper()
	var done int64
	v, err := w.host.Verify(w.t.Context(), mover.VerifyRequest{Job: testJob, Point: id, Tier: tier, Vault: &w.access},
		func(r mover.Report) { done = r.Done })
	must(w.t, err)
	for target, sum := range sums {
		if v.SHA256[target] != sum {
			w.t.Errorf("disk %s of %s in the %s tier is not what the guest had", target, id, tier)
		}
	}
	if done != 2*testSize || len(v.SHA256) != 2 {
		w.t.Errorf("verify reported %d bytes and %d disks", done, len(v.SHA256))
	}
}

const (
	pointB = backstay.PointID("01JP0000000000000000000002")
	pointC = backstay.PointID("01JP0000000000000000000003")
)

func TestBothTiersHoldWhatTheGuestHadAtTheInstant(t *testing.T) {
	w := newTestWorld(t)
	first := w.snapshotOf(pointID)
	must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte{7}, 8192)))
	w.transfer(pointID, "")
	second := w.snapshotOf(pointB)
	must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte{8}, 8192)))
	done := w.transfer(pointB, pointID)
	if done.Modes["vda"] != "changed layers" || done.Stats.BytesRead > testSize/4 {
		t.Errorf("the second transfer went by %q and read %d bytes", done.Modes["vda"], done.Stats.BytesRead)
	}
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		w.holds(pointID, tier, first)
		w.holds(pointB, tier, second)
	}
	_, err := w.host.Release(t.Context(), sourceVM, nil)
	must(t, err)
	w.holds(pointID, backstay.VaultTier, first)
	w.holds(pointB, backstay.VaultTier, second)
}

func TestWithoutAProvableChangeMapEverythingIsCompared(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	w.transfer(pointID, "")
	sums := w.snapshotOf(pointB)
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
	must(t, os.RemoveAll(filepath.Join(w.dir, "vms", ".backstay", "changes"))) // what was saved of it
	done := w.transfer(pointB, pointID)
	for target, mode := range done.Modes {
		if !strings.HasPrefix(mode, "full compare: ") || !strings.Contains(mode, "not in the snapshot tier any more") {
			t.Errorf("disk %s went by %q", target, mode)
		}
	}
	if done.Stats.BytesNew > testSize/8 {
		t.Errorf("nothing changed, and %d bytes were stored", done.Stats.BytesNew)
	}
	w.holds(pointB, backstay.VaultTier, sums)
}

func TestTransferWhoseAnswerWasLostIsDone(t *testing.T) {
	w := newTestWorld(t)
	sums := w.snapshotOf(pointID)
	w.transfer(pointID, "")
	again := w.transfer(pointID, "")
	if len(again.Disks) != 2 || again.Disks[0].Size != testSize {
		t.Errorf("the repeat says %+v", again)
	}
	w.holds(pointID, backstay.VaultTier, sums)
}

func TestPointsAndDropMayBeRepeated(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	w.snapshotOf(pointB)
	points, err := w.host.Points(t.Context())
	must(t, err)
	if len(points) != 2 || points[1].Parent != pointID || points[1].Shape.Host != "h1" || len(points[1].Disks) != 2 {
		t.Errorf("points are %+v", points)
	}
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
	if points, _ = w.host.Points(t.Context()); len(points) != 1 || points[0].Parent != "" {
		t.Errorf("points are %+v", points)
	}
}

// fullStore is a storage unit without room.
type fullStore struct{ blob.Store }

func (fullStore) Put(context.Context, string, []byte) error { return blob.ErrFull }

func TestFailedTransferKeepsTheSnapshotAndSaysWhy(t *testing.T) {
	w := newTestWorld(t)
	sums := w.snapshotOf(pointID)
	sound := w.store
	w.store = fullStore{w.store}
	_, err := w.host.Transfer(t.Context(), mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, nil)
	if !backstay.IsCode(err, backstay.CodeVaultFull) {
		t.Errorf("a full vault: %v", err)
	}
	w.holds(pointID, backstay.SnapshotTier, sums)
	w.store = sound
	w.hv.Hook = func(call string) error {
		if call == "export" {
			return errors.New("no more processes")
		}
		return nil
	}
	_, err = w.host.Transfer(t.Context(), mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, nil)
	if !backstay.IsCode(err, backstay.CodeTransferFailed) || !strings.Contains(err.Error(), "no more processes") {
		t.Errorf("a layer that cannot be read: %v", err)
	}
	w.hv.Hook = nil
	if users := w.users(); len(users) > 0 {
		t.Errorf("failed transfers still stand on the layers: %v", users)
	}
	w.transfer(pointID, "")
	w.holds(pointID, backstay.VaultTier, sums)
}

func TestCancelledTransferEndsWithTheCause(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	ctx, cancel := context.WithCancelCause(t.Context())
	w.hv.Hook = func(call string) error {
		if call == "export" {
			cancel(backstay.ErrCancelled)
		}
		return nil
	}
	_, err := w.host.Transfer(ctx, mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, nil)
	if !errors.Is(err, backstay.ErrCancelled) {
		t.Errorf("error is %v", err)
	}
	w.hv.Hook = nil
	if users := w.users(); len(users) > 0 {
		t.Errorf("the cancelled transfer still stands on the layers: %v", users)
	}
}

func TestOneChangingCallAtATimeForEachVM(t *testing.T) {
	var k keyedMutex
	inside := 0
	var wg sync.WaitGroup
	for range 50 {
		wg.Go(func() {
			unlock, err := k.lock(t.Context(), "vm")
			if err != nil {
				t.Error(err)
				return
			}
			inside++ // the race detector sees it if the lock does not hold
			unlock()
		})
	}
	wg.Wait()
	unlock, err := k.lock(t.Context(), "vm")
	must(t, err)
	other, err := k.lock(t.Context(), "other")
	must(t, err)
	other()
	ctx, cancel := context.WithCancelCause(t.Context())
	cancel(backstay.ErrStopping)
	if _, err := k.lock(ctx, "vm"); !errors.Is(err, backstay.ErrStopping) {
		t.Errorf("waited behind the end of the context: %v", err)
	}
	unlock()
	if inside != 50 || len(k.locks) != 0 {
		t.Errorf("%d calls, %d locks left", inside, len(k.locks))
	}
}

func TestPathsTellRoomAndUsers(t *testing.T) {
	w := newTestWorld(t)
	w.snapshotOf(pointID)
	infos, err := w.host.Paths(t.Context(), []string{w.path("vms/web01.raw"), w.path("vms/new"), w.path("none/new")})
	must(t, err)
	if i := infos[0]; !i.Exists || !i.Folder || i.Available == 0 || i.Device == "" || len(i.UsedBy) != 1 || i.UsedBy[0] != "web01" {
		t.Errorf("a frozen layer: %+v", i)
	}
	if i := infos[1]; i.Exists || !i.Folder || i.UsedBy != nil {
		t.Errorf("a new file: %+v", i)
	}
	if i := infos[2]; i.Exists || i.Folder {
		t.Errorf("a file in no folder: %+v", i)
	}
}
