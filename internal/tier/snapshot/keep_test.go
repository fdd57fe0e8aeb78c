package snapshot

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// changesCover sees that a change map names every page that differs between two
// points, whose contents are given, and not the whole disk.
func (w *world) changesCover(parent, point backstay.PointID, before, after map[backstay.DiskTarget][]byte) {
	w.t.Helper()
	for target := range before {
		ranges, ok, reason, err := w.tier.Changes(background, point, parent, target)
		must(w.t, err)
		if !ok {
			w.t.Errorf("disk %s: no change map from %s to %s: %s", target, parent, point, reason)
			continue
		}
		if !slices.IsSortedFunc(ranges, func(a, b backstay.Range) int { return int(a.End() - b.Offset) }) {
			w.t.Errorf("ranges are not in order: %v", ranges)
		}
		for at := int64(0); at < diskSize; at += 4096 {
			named := slices.ContainsFunc(ranges, func(r backstay.Range) bool { return r.Offset <= at && at < r.End() })
			if !named && string(before[target][at:at+4096]) != string(after[target][at:at+4096]) {
				w.t.Errorf("disk %s: the change at %d is not named", target, at)
			}
		}
		if backstay.TotalLength(ranges) == diskSize {
			w.t.Errorf("disk %s: the map names everything", target)
		}
	}
}

// disks reads all disks of the VM.
func (w *world) disks() map[backstay.DiskTarget][]byte {
	w.t.Helper()
	all := map[backstay.DiskTarget][]byte{}
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		all[target] = make([]byte, diskSize)
		must(w.t, w.hv.ReadGuest(vmID, target, 0, all[target]))
	}
	return all
}

// TestAPendingTransferKeepsItsChangeMapWhenItsParentGoes: the vault has the first
// point; the next two failed to get there, and retention takes the older ones.
func TestAPendingTransferKeepsItsChangeMapWhenItsParentGoes(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := newWorld(t, running)
		w.write()
		atFirst := w.disks()
		first, _ := w.take()
		must(t, w.tier.Vaulted(background, first))
		second, _ := w.take()
		w.restart()
		atThird := w.disks()
		third, _ := w.take()
		must(t, w.tier.Drop(background, first, nil))
		w.changesCover(first, third, atFirst, atThird)
		must(t, w.tier.Drop(background, second, nil))
		w.changesCover(first, third, atFirst, atThird)
		if got := w.maps(); len(got) != 4 {
			t.Errorf("saved maps are %v", got)
		}
		must(t, w.tier.Vaulted(background, third))
		if got := w.maps(); len(got) != 0 {
			t.Errorf("the vault has a later point, and these maps are left: %v", got)
		}
		w.release()
		w.clean()
	}
}

// maps lists the files of saved change maps.
func (w *world) maps() []string {
	w.t.Helper()
	found, err := filepath.Glob(w.disk(".backstay/changes/*"))
	must(w.t, err)
	return found
}

// TestAMapIsNotSavedForWhatTheVaultHasPassed: no transfer is relative to a point
// that is older than the newest in the vault.
func TestAMapIsNotSavedForWhatTheVaultHasPassed(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, _ := w.take()
	w.take()
	must(t, w.tier.Vaulted(background, second))
	must(t, w.tier.Drop(background, first, nil))
	if got := w.maps(); len(got) != 0 {
		t.Errorf("saved maps are %v", got)
	}
}

// TestAMapOfALayerThatSomebodyWroteToIsNotSaved (I7).
func TestAMapOfALayerThatSomebodyWroteToIsNotSaved(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, _ := w.take()
	third, _ := w.take()
	p, err := w.tier.Open(background, second)
	must(t, err)
	later := time.Now().Add(time.Hour)
	must(t, os.Chtimes(p.Disks[0].Path, later, later))
	must(t, w.tier.Drop(background, first, nil))
	if _, ok, _, err := w.tier.Changes(background, third, first, "vda"); err != nil || ok {
		t.Errorf("a map that cannot be proved is offered: %v, %v", ok, err)
	}
}

// TestWithRetentionZeroOnlyTheChangeMapStays: a disk has never more than its
// file, one frozen overlay and the one that is written to, and each transfer
// knows what changed.
func TestWithRetentionZeroOnlyTheChangeMapStays(t *testing.T) {
	for _, running := range []bool{true, false} {
		w := newWorld(t, running)
		var last backstay.PointID
		var before map[backstay.DiskTarget][]byte
		for range 5 {
			now := w.disks()
			id, _ := w.take()
			if last != "" {
				w.changesCover(last, id, before, now)
			}
			if files := w.layers(); len(files) > 6 {
				t.Errorf("files are %v", files)
			}
			must(t, w.tier.Vaulted(background, id))
			seen := w.guest()
			must(t, w.tier.KeepMap(background, id, nil))
			if w.guest() != seen {
				t.Fatal("what the guest sees changed")
			}
			points, err := w.tier.Points(background)
			must(t, err)
			if len(points) > 0 {
				t.Errorf("a point is offered though only its map is kept: %v", points[0].ID)
			}
			if _, err := w.tier.Open(background, id); !backstay.IsCode(err, backstay.CodeNotRestorable) {
				t.Errorf("it was opened: %v", err)
			}
			if files := w.layers(); len(files) != 4 {
				t.Errorf("files are %v", files)
			}
			last, before = id, now
		}
		seen := w.guest()
		w.release()
		if w.guest() != seen || w.active() != "vda.raw vdb.qcow2" {
			t.Errorf("after the release the VM is on %s", w.active())
		}
		w.clean()
	}
}

// TestAPinnedPointStaysWhateverIsAsked, also when everything but the files
// beside the disks is lost.
func TestAPinnedPointStaysWhateverIsAsked(t *testing.T) {
	w := newWorld(t, true)
	first, _ := w.take()
	second, at := w.take()
	third, _ := w.take()
	must(t, w.tier.Pin(background, second, true))
	must(t, os.RemoveAll(filepath.Join(w.dir, "state")))
	w.restart()
	for name, end := range map[string]func() error{
		"drop":    func() error { return w.tier.Drop(background, second, nil) },
		"map":     func() error { return w.tier.KeepMap(background, second, nil) },
		"release": func() error { _, err := w.tier.Release(background, vmID, nil); return err },
	} {
		_, err := w.tier.Points(background)
		must(t, err)
		if err := end(); !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "pinned") {
			t.Errorf("%s: %v", name, err)
		}
		if w.point(second) != at {
			t.Fatalf("%s: the point changed", name)
		}
	}
	// Its neighbours may go.
	for _, id := range []backstay.PointID{first, third} {
		if err := w.tier.Drop(background, id, nil); err != nil && !backstay.IsCode(err, backstay.CodeUnknownPoint) {
			t.Error(err)
		}
	}
	if w.point(second) != at {
		t.Fatal("the point changed")
	}
	must(t, w.tier.Pin(background, second, false))
	must(t, w.tier.Drop(background, second, nil))
	if err := w.tier.Pin(background, second, true); !backstay.IsCode(err, backstay.CodeUnknownPoint) {
		t.Errorf("a point that is gone was pinned: %v", err)
	}
	w.clean()
}

// TestAChainIsNeverDeeperThanItsBound, and the refusal names what holds each
// point. Strangers' layers count as well.
func TestAChainIsNeverDeeperThanItsBound(t *testing.T) {
	w := newWorld(t, true)
	var ids []backstay.PointID
	for range 3 {
		id, _ := w.take()
		ids = append(ids, id)
	}
	must(t, w.tier.Pin(background, ids[1], true))
	must(t, w.tier.AddUser(ids[0], "vda", User{Kind: UserVM, ID: "vm-9", Overlay: w.disk("thin.qcow2")}))
	r := w.request(w.nextPoint())
	r.Depth = 3
	_, err := w.tier.Prepare(background, r)
	if !backstay.IsCode(err, backstay.CodeTooDeep) {
		t.Fatalf("prepared a fourth point of three: %v", err)
	}
	for _, want := range []string{"vda of web01", string(ids[0]) + ": VM vm-9", string(ids[1]) + ": it is pinned", string(ids[2]) + ": nothing holds it"} {
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%q does not say %q", err, want)
		}
	}
	must(t, w.tier.RemoveUser(UserVM, "vm-9"))
	r.Depth = 4
	_, err = w.tier.Prepare(background, r)
	must(t, err)
	for i := range backstay.MaxDepth {
		w.strangers(string(rune('a'+i%26)) + string(rune('a'+i/26)))
	}
	r = w.request(w.nextPoint())
	if _, err := w.tier.Prepare(background, r); !backstay.IsCode(err, backstay.CodeTooDeep) {
		t.Errorf("strangers' layers do not count: %v", err)
	}
}

// TestAnOverlayThatNoRecordKnowsProtectsItsLayer: its VM was undefined, and only
// its own header names the layer.
func TestAnOverlayThatNoRecordKnowsProtectsItsLayer(t *testing.T) {
	w := newWorld(t, true)
	first, at := w.take()
	second, _ := w.take()
	p, err := w.tier.Open(background, second)
	must(t, err)
	stray := w.disk("stray.qcow2")
	must(t, w.hv.CreateOverlay(background, hypervisor.Overlay{Path: stray, Backing: hypervisor.Plain(p.Disks[1].Path, p.Disks[1].Format)}))
	for _, id := range []backstay.PointID{first, second} {
		if err := w.tier.Drop(background, id, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), stray) {
			t.Errorf("dropped below an overlay: %v", err)
		}
	}
	if w.point(first) != at {
		t.Error("the point changed")
	}
	must(t, os.Remove(stray))
	must(t, w.tier.Drop(background, first, nil))
}

// TestAMergeThatWouldFillTheFileSystemIsNotBegun: the guest would see it full.
func TestAMergeThatWouldFillTheFileSystemIsNotBegun(t *testing.T) {
	for name, c := range map[string]struct {
		upper, lower []backstay.Range
		want         int64
	}{
		"all of it is new":     {[]backstay.Range{{Offset: 0, Length: 10}}, nil, 10},
		"all of it is there":   {[]backstay.Range{{Offset: 5, Length: 10}}, []backstay.Range{{Offset: 0, Length: 20}}, 0},
		"a hole in the middle": {[]backstay.Range{{Offset: 0, Length: 30}}, []backstay.Range{{Offset: 0, Length: 10}, {Offset: 20, Length: 5}}, 15},
		"one below several": {[]backstay.Range{{Offset: 0, Length: 10}, {Offset: 20, Length: 10}, {Offset: 40, Length: 10}},
			[]backstay.Range{{Offset: 5, Length: 30}}, 5 + 10},
	} {
		if got := backstay.TotalLength(missing(c.upper, c.lower)); got != c.want {
			t.Errorf("%s: %d bytes are needed, want %d", name, got, c.want)
		}
	}
}

func TestACoarserMapCoversTheWholeOne(t *testing.T) {
	ranges := []backstay.Range{{Offset: 0, Length: 1}, {Offset: 2, Length: 1}, {Offset: 10, Length: 1}, {Offset: 30, Length: 2}, {Offset: 33, Length: 1}}
	for most := 1; most <= 5; most++ {
		got := coarser(ranges, most)
		if len(got) > most {
			t.Errorf("%d ranges, not more than %d are wanted", len(got), most)
		}
		for _, r := range ranges {
			if !slices.ContainsFunc(got, func(g backstay.Range) bool { return g.Offset <= r.Offset && r.End() <= g.End() }) {
				t.Errorf("at most %d: %v is not covered by %v", most, r, got)
			}
		}
	}
}

// TestWhatASessionShowsIsNeitherMergedNorLeft: who wants to is told of it, and no
// entry of it outlives the process that has it open.
func TestWhatASessionShowsIsNeitherMergedNorLeft(t *testing.T) {
	w := newWorld(t, true)
	first, at := w.take()
	second, _ := w.take()
	point, err := w.tier.Open(background, second)
	must(t, err)
	image, err := point.OpenDiskFor(background, "vda", Session{ID: "files-7", By: "ann", Until: w.tier.now().Add(time.Hour)})
	must(t, err)
	_, releaseErr := w.tier.Release(background, vmID, nil)
	for name, err := range map[string]error{
		"drop": w.tier.Drop(background, first, nil), "release": releaseErr,
	} {
		if !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "session files-7 of ann, open until") {
			t.Errorf("%s: %v", name, err)
		}
	}
	if w.point(first) != at {
		t.Error("the point changed")
	}
	w.sweep()
	must(t, w.tier.ForgetSessions())
	if err := w.tier.Drop(background, first, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("the sweep took a session that goes on: %v", err)
	}
	// The end of the process: nobody closes anything.
	w.tier.reading = map[string]int{}
	must(t, w.tier.AddUser(second, "vda", User{Kind: UserMount, ID: "files-8/x/vda", Host: "elsewhere", Until: w.tier.now().Add(time.Hour)}))
	must(t, w.tier.ForgetSessions())
	if err := w.tier.Drop(background, first, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) || strings.Contains(err.Error(), "files-7") || !strings.Contains(err.Error(), "files-8") {
		t.Errorf("after the process with one of two sessions had ended: %v", err)
	}
	must(t, w.tier.RemoveUser(UserMount, "files-8/x/vda"))
	must(t, image.Close())
	must(t, w.tier.Drop(background, first, nil))
	w.clean()
}
