package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

const listedVM = "0c3e1c58-20b7-4bd1-9a0b-b6b9b5a6e0a1"

// commitList makes a list of these segments, of which those that are there already
// are kept.
func commitList(w *world, s blob.Store, segments ...string) error {
	l, err := w.open(s).FileList(w.ctx, listedVM)
	if err != nil {
		return err
	}
	var names []string
	for line := range strings.Lines(string(l.Head())) {
		if name := strings.TrimSpace(line); name != "" {
			if data, err := l.Get(w.ctx, name); err == nil && slices.Contains(segments, string(data)) {
				names = append(names, name)
				segments = slices.DeleteFunc(slices.Clone(segments), func(s string) bool { return s == string(data) })
			}
		}
	}
	for _, data := range segments {
		name, err := l.Put(w.ctx, []byte(data))
		if err != nil {
			return err
		}
		names = append(names, name)
	}
	return l.Commit(w.ctx, []byte(strings.Join(names, "\n")), names)
}

// readList returns the segments of the list.
func readList(w *world, s blob.Store) ([]string, error) {
	l, err := w.open(s).FileList(w.ctx, listedVM)
	if err != nil {
		return nil, err
	}
	if l.Damage() != nil {
		return nil, l.Damage()
	}
	var all []string
	for line := range strings.Lines(string(l.Head())) {
		data, err := l.Get(w.ctx, strings.TrimSpace(line))
		if err != nil {
			return nil, err
		}
		all = append(all, string(data))
	}
	slices.Sort(all)
	return all, nil
}

func TestListOfFilesIsTheOldOrTheNewWhereverItsWriterDies(t *testing.T) {
	before, after := []string{"a", "b"}, []string{"b", "c", "d"}
	for call, kinds := range map[fault.Call][]fault.Kind{fault.Put: {fault.Fail, fault.FailLate}, fault.Delete: {fault.Fail}} {
		for _, kind := range kinds {
			for copy := range 3 {
				for nth, hit := 1, true; hit; nth++ {
					w := newWorld(t)
					w.must(commitList(w, w.store, before...))
					f := &fault.Fault{Kind: kind, Call: call, Prefix: "find/", Nth: nth, Onwards: true}
					stores := []blob.Store{w.copies[0], w.copies[1], w.copies[2]}
					stores[copy] = fault.Wrap(w.copies[copy], f)
					err := commitList(w, replica.New(stores...), after...)
					hit = f.Hits() > 0
					if hit == (err == nil) {
						t.Fatalf("%s %s %d: %v", kind, call, nth, err)
					}
					got, err := readList(w, w.store)
					if err != nil || !slices.Equal(got, before) && !slices.Equal(got, after) {
						t.Fatalf("%s %s %d in copy %d: %v %q", kind, call, nth, copy, err, got)
					}
					w.must(commitList(w, w.store, after...))
					if got, err := readList(w, w.store); err != nil || !slices.Equal(got, after) {
						t.Fatalf("%s %s %d in copy %d, again: %v %q", kind, call, nth, copy, err, got)
					}
					if left := w.objects("find/"); len(left) != 1+len(after) {
						t.Fatalf("%s %s %d in copy %d: %q is left", kind, call, nth, copy, left)
					}
				}
			}
		}
	}
}

// headless is a store whose listings lack the heads of lists of files.
type headless struct{ blob.Store }

func (h headless) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	return h.Store.List(ctx, prefix, func(i blob.Info) error {
		if strings.Contains(i.Name, "/h-") {
			return nil
		}
		return fn(i)
	})
}

// TestAShortListingDeletesNothingOfAList (I6).
func TestAShortListingDeletesNothingOfAList(t *testing.T) {
	w := newWorld(t)
	w.must(commitList(w, w.store, "a"))
	w.must(commitList(w, w.store, "a", "b"))
	short := replica.New(headless{w.copies[0]}, headless{w.copies[1]}, headless{w.copies[2]})
	w.must(commitList(w, short, "c"))
	if got, err := readList(w, w.store); err != nil || !slices.Equal(got, []string{"a", "b"}) {
		t.Errorf("the list is %q, error %v", got, err)
	}
	w.must(commitList(w, w.store, "b", "d"))
	if left := w.objects("find/"); len(left) != 3 {
		t.Errorf("%q is left", left)
	}
}

func TestOfTwoWritersOfAListOneCommits(t *testing.T) {
	w := newWorld(t)
	w.must(commitList(w, w.store, "a"))
	one, err := w.vault.FileList(w.ctx, listedVM)
	w.must(err)
	other, err := w.open(w.store).FileList(w.ctx, listedVM)
	w.must(err)
	name, err := one.Put(w.ctx, []byte("one"))
	w.must(err)
	lost, err := other.Put(w.ctx, []byte("other"))
	w.must(err)
	w.must(one.Commit(w.ctx, []byte(name), []string{name}))
	if err := other.Commit(w.ctx, []byte(lost), []string{lost}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("the second commit: %v", err)
	}
	if got, err := readList(w, w.store); err != nil || !slices.Equal(got, []string{"one"}) {
		t.Errorf("%v %q", err, got)
	}
}

func TestListOfFilesTellsNothingAndIsBoundToItsPlace(t *testing.T) {
	w := newWorld(t)
	w.must(commitList(w, w.store, "/etc/secret-name", "other"))
	names := w.objects("find/")
	for _, name := range names {
		if data := w.get(0, name); bytes.Contains(data, []byte("secret-name")) || strings.Contains(name, listedVM) {
			t.Errorf("%s tells what is in it", name)
		}
	}
	var segments []string
	for _, name := range names {
		if strings.Contains(name, "/s-") {
			segments = append(segments, name)
		}
	}
	x, y := w.get(0, segments[0]), w.get(0, segments[1])
	w.everywhere(segments[0], y)
	w.everywhere(segments[1], x)
	if _, err := readList(w, w.store); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("segments in each other's place were served: %v", err)
	}
}

func TestListOfFilesIsVerifiedRepairedAndRemovedWithTheLastPoint(t *testing.T) {
	w := newWorld(t)
	id := newID()
	w.must(w.small(w.vault, id, 1))
	w.must(commitList(w, w.store, "a", "b"))
	name := w.objects("find/")[1]
	for _, how := range w.scrubbings() {
		w.must(w.copies[1].Delete(w.ctx, name))
		bad := bytes.Clone(w.get(2, name))
		bad[len(bad)/2] ^= 1
		w.copies[2].Replace(name, bad)
		if got, err := readList(w, w.store); err != nil || len(got) != 2 {
			t.Errorf("one sound copy is not enough: %v", err)
		}
		report, err := how.scrub(w.store, vault.ScrubOptions{})
		w.must(err)
		if len(report.Damages) != 1 || report.Damages[0].Object != name {
			t.Fatalf("damages: %+v", report.Damages)
		}
		_, err = how.repair(w.store, report.Damages)
		w.must(err)
		if !bytes.Equal(w.get(1, name), w.get(0, name)) || !bytes.Equal(w.get(2, name), w.get(0, name)) {
			t.Error("the copies differ")
		}
	}
	w.everywhere(name, []byte("nothing"))
	if _, err := readList(w, w.store); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("a list that is lost: %v", err)
	}
	w.must(commitList(w, w.store, "c")) // it is made anew

	tidy := func() {
		w.must(w.open(w.store).Reclaim(vault.ReclaimOptions{Now: created}).Tidy(w.ctx))
	}
	if tidy(); len(w.objects("find/")) != 2 {
		t.Errorf("%q is left of the list of a VM with a point", w.objects("find/"))
	}
	w.must(w.open(w.store).DropPoint(w.ctx, id, created))
	if tidy(); len(w.objects("find/")) != 0 {
		t.Errorf("%q is left of the list of a VM without a point", w.objects("find/"))
	}
}

func TestListWithoutAHeadIsNone(t *testing.T) {
	w := newWorld(t)
	l, err := w.vault.FileList(w.ctx, listedVM)
	w.must(err)
	if l.Head() != nil || l.Damage() != nil {
		t.Errorf("%q %v", l.Head(), l.Damage())
	}
	if _, err := l.Get(w.ctx, fmt.Sprintf("%026d", 7)); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("a segment that is not there: %v", err)
	}
	if _, err := l.Get(w.ctx, "../points/x"); !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("a name that is none: %v", err)
	}
}
