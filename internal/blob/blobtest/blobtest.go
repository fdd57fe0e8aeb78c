// Package blobtest is the conformance suite of the blob port: each test checks a
// sentence of the contract in package blob. Every adapter and wrapper runs it.
package blobtest

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"testing"

	"github.com/backstay/backstay/internal/blob"
)

// Run runs the suite. fresh returns an empty store for each test.
func Run(t *testing.T, fresh func(t *testing.T) blob.Store) {
	for name, test := range map[string]func(*testing.T, blob.Store){
		"PutIsWholeAndReadBack":       readBack,
		"PutNeverReplaces":            noReplace,
		"OfManyWritersOneWins":        oneWins,
		"RangesAreExact":              ranges,
		"AbsentIsSaidSo":              absent,
		"ListIsCompleteAndInOrder":    list,
		"ListEndsWithTheCallersError": listError,
		"DeleteMakesAbsent":           deletes,
		"BadNamesAreRefused":          names,
		"CancelledCallsDoNothing":     cancelled,
		"CallersMayReuseTheirBuffers": buffers,
		"EmptyAndLargeObjectsArePut":  sizes,
		"ManyCallersAtOnceAreServed":  concurrent,
	} {
		t.Run(name, func(t *testing.T) { test(t, fresh(t)) })
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

func want(t *testing.T, s blob.Store, name string, data []byte) {
	t.Helper()
	got, err := s.Get(t.Context(), name, 0, -1)
	must(t, err)
	if !bytes.Equal(got, data) {
		t.Errorf("%s holds %q, want %q", name, got, data)
	}
}

func readBack(t *testing.T, s blob.Store) {
	must(t, s.Put(t.Context(), "packs/ab/abcd", []byte("content")))
	want(t, s, "packs/ab/abcd", []byte("content"))
	info, err := s.Stat(t.Context(), "packs/ab/abcd")
	must(t, err)
	if info != (blob.Info{Name: "packs/ab/abcd", Size: 7}) {
		t.Errorf("stat: %+v", info)
	}
}

func noReplace(t *testing.T, s blob.Store) {
	must(t, s.Put(t.Context(), "a", []byte("first")))
	for _, again := range []string{"first", "other"} {
		if err := s.Put(t.Context(), "a", []byte(again)); !errors.Is(err, blob.ErrExist) {
			t.Errorf("second put of %q: %v, want ErrExist", again, err)
		}
	}
	want(t, s, "a", []byte("first"))
}

func oneWins(t *testing.T, s blob.Store) {
	const writers = 8
	var wg sync.WaitGroup
	errs := make([]error, writers)
	for i := range writers {
		wg.Go(func() { errs[i] = s.Put(t.Context(), "points/p", fmt.Appendf(nil, "writer %d", i)) })
	}
	wg.Wait()
	winner := -1
	for i, err := range errs {
		switch {
		case err == nil && winner >= 0:
			t.Errorf("writers %d and %d both won", winner, i)
		case err == nil:
			winner = i
		case !errors.Is(err, blob.ErrExist):
			t.Errorf("writer %d: %v", i, err)
		}
	}
	if winner < 0 {
		t.Fatal("nobody won")
	}
	want(t, s, "points/p", fmt.Appendf(nil, "writer %d", winner))
}

func ranges(t *testing.T, s blob.Store) {
	must(t, s.Put(t.Context(), "a", []byte("0123456789")))
	for _, r := range []struct {
		offset, length int64
		want           string
	}{{0, 10, "0123456789"}, {0, -1, "0123456789"}, {3, 4, "3456"}, {7, -1, "789"}, {9, 1, "9"}, {5, 0, ""}, {10, -1, ""}} {
		got, err := s.Get(t.Context(), "a", r.offset, r.length)
		if err != nil || string(got) != r.want {
			t.Errorf("get %d at %d: %q, %v", r.length, r.offset, got, err)
		}
	}
	for _, r := range [][2]int64{{0, 11}, {10, 1}, {11, 0}, {11, -1}, {-1, 2}, {1 << 62, 1 << 62}} {
		if got, err := s.Get(t.Context(), "a", r[0], r[1]); err == nil {
			t.Errorf("get %d at %d outside the object: %q", r[1], r[0], got)
		}
	}
}

func absent(t *testing.T, s blob.Store) {
	must(t, s.Put(t.Context(), "a/b", []byte("x")))
	for _, name := range []string{"b", "a", "a/c", "a/b/c", "c/d/e"} {
		if _, err := s.Get(t.Context(), name, 0, -1); !errors.Is(err, blob.ErrNotExist) {
			t.Errorf("get %s: %v", name, err)
		}
		if _, err := s.Stat(t.Context(), name); !errors.Is(err, blob.ErrNotExist) {
			t.Errorf("stat %s: %v", name, err)
		}
	}
}

func listed(t *testing.T, s blob.Store, prefix string) []string {
	t.Helper()
	var found []string
	must(t, s.List(t.Context(), prefix, func(i blob.Info) error {
		found = append(found, fmt.Sprintf("%s:%d", i.Name, i.Size))
		return nil
	}))
	return found
}

func list(t *testing.T, s blob.Store) {
	if got := listed(t, s, ""); len(got) != 0 {
		t.Errorf("a fresh store lists %v", got)
	}
	var all []string
	for i, name := range []string{"vault.json", "packs/ab/1", "packs/ab/2", "packs/b/1", "packs-x", "a.b", "a/c", "a/b/c", "a-b"} {
		must(t, s.Put(t.Context(), name, make([]byte, i)))
		all = append(all, fmt.Sprintf("%s:%d", name, i))
	}
	slices.SortFunc(all, func(a, b string) int {
		return strings.Compare(a[:strings.IndexByte(a, ':')], b[:strings.IndexByte(b, ':')])
	})
	for _, prefix := range []string{"", "packs/", "packs/a", "packs/ab/", "packs", "a", "a/", "vault.json", "zzz", "packs/ab/1"} {
		var want []string
		for _, name := range all {
			if strings.HasPrefix(name, prefix) {
				want = append(want, name)
			}
		}
		if got := listed(t, s, prefix); !slices.Equal(got, want) {
			t.Errorf("list %q: %v, want %v", prefix, got, want)
		}
	}
}

func listError(t *testing.T, s blob.Store) {
	must(t, s.Put(t.Context(), "a", nil))
	must(t, s.Put(t.Context(), "b", nil))
	stop := errors.New("stop")
	calls := 0
	err := s.List(t.Context(), "", func(blob.Info) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		t.Errorf("%v after %d calls", err, calls)
	}
}

func deletes(t *testing.T, s blob.Store) {
	must(t, s.Delete(t.Context(), "never/was"))
	must(t, s.Put(t.Context(), "a/b", []byte("1")))
	must(t, s.Delete(t.Context(), "a/b"))
	must(t, s.Delete(t.Context(), "a/b"))
	if _, err := s.Stat(t.Context(), "a/b"); !errors.Is(err, blob.ErrNotExist) {
		t.Errorf("stat of a deleted object: %v", err)
	}
	if got := listed(t, s, ""); len(got) != 0 {
		t.Errorf("a deleted object is listed: %v", got)
	}
	must(t, s.Put(t.Context(), "a/b", []byte("2")))
	want(t, s, "a/b", []byte("2"))
}

func names(t *testing.T, s blob.Store) {
	for _, name := range []string{"", "/a", "a/", "a//b", "..", "../a", "a/../b", ".hidden", "a/.hidden", "a b", "ä", "a\x00b", "a\\b", strings.Repeat("a", 600)} {
		if err := s.Put(t.Context(), name, nil); err == nil {
			t.Errorf("put of %q is accepted", name)
		}
		if _, err := s.Get(t.Context(), name, 0, -1); err == nil {
			t.Errorf("get of %q is accepted", name)
		}
		if err := s.Delete(t.Context(), name); err == nil {
			t.Errorf("delete of %q is accepted", name)
		}
	}
}

func cancelled(t *testing.T, s blob.Store) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if err := s.Put(ctx, "a", nil); err == nil {
		t.Error("a cancelled put is done")
	}
	if _, err := s.Stat(t.Context(), "a"); !errors.Is(err, blob.ErrNotExist) {
		t.Errorf("stat: %v", err)
	}
}

func buffers(t *testing.T, s blob.Store) {
	data := []byte("mine")
	must(t, s.Put(t.Context(), "a", data))
	copy(data, "your")
	got, err := s.Get(t.Context(), "a", 0, -1)
	must(t, err)
	copy(got, "xxxx")
	want(t, s, "a", []byte("mine"))
}

func sizes(t *testing.T, s blob.Store) {
	for name, size := range map[string]int{"empty": 0, "one": 1, "large": 17 << 20} {
		data := bytes.Repeat([]byte{0xa5}, size)
		must(t, s.Put(t.Context(), name, data))
		want(t, s, name, data)
	}
}

func concurrent(t *testing.T, s blob.Store) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("packs/%02d/x", i%4) + fmt.Sprint(i)
			data := bytes.Repeat([]byte{byte(i)}, 5000)
			if err := s.Put(t.Context(), name, data); err != nil {
				t.Error(err)
				return
			}
			got, err := s.Get(t.Context(), name, 100, 50)
			if err != nil || !bytes.Equal(got, data[100:150]) {
				t.Errorf("%s: %v", name, err)
			}
		})
	}
	wg.Wait()
	if got := listed(t, s, "packs/"); len(got) != 16 {
		t.Errorf("%d objects are listed, want 16", len(got))
	}
}
