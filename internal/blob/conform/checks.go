package conform

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"github.com/backstay/backstay/internal/blob"
)

const (
	doServer = "this server does not do what a storage unit must: report it to its maker, or use another"
	doLock   = "it can be used: the catalogue's lock is what keeps two writers apart; never let two servers use one vault there"
)

// Checks returns the suite in the order in which it is run.
func Checks() []Check {
	return []Check{
		{"put, read back", "PutIsWholeAndReadBack", doServer, readBack},
		{"put-if-absent", "PutNeverReplaces", doLock, noReplace},
		{"put-if-absent, racing writers", "OfManyWritersOneWins", doLock, oneWins},
		{"ranges are exact", "RangesAreExact", doServer, ranges},
		{"absent is said so", "AbsentIsSaidSo", doServer, absent},
		{"list after write, in order", "ListIsCompleteAndInOrder", doServer, list},
		{"listing ends when told", "ListEndsWithTheCallersError", doServer, listError},
		{"long listing", "ALongListingIsCompleteAndInOrder", doServer, longList},
		{"delete", "DeleteMakesAbsent", "allow deleting there: what expires must go", deletes},
		{"odd names", "OddNamesAreKeptApart", "use a store that tells upper from lower case and takes long names", oddNames},
		{"bad names", "BadNamesAreRefused", doServer, badNames},
		{"cancelled calls", "CancelledCallsDoNothing", doServer, cancelled},
		{"buffers", "CallersMayReuseTheirBuffers", doServer, buffers},
		{"empty and large objects", "EmptyAndLargeObjectsArePut", "raise the server's limit for the size of a request, and its time limits", sizes},
		{"broken off in the middle", "WhatIsBrokenOffIsWholeOrAbsent", doServer, brokenOff},
		{"concurrent writers", "ManyCallersAtOnceAreServed", "raise the server's limit for connections", concurrent},
	}
}

// must notes an error and tells whether to go on.
func (a *area) must(err error) bool {
	if err != nil {
		a.fail(err)
	}
	return err == nil
}

func (a *area) put(name string, data []byte) bool { return a.must(a.Put(a.ctx, name, data)) }

func (a *area) want(name string, data []byte) {
	got, err := a.Get(a.ctx, name, 0, -1)
	switch {
	case err != nil:
		a.fail(err)
	case !bytes.Equal(got, data) && len(data)+len(got) < 200:
		a.errorf("%s holds %q, want %q", name, got, data)
	case !bytes.Equal(got, data):
		a.errorf("%s holds %d bytes that are not the %d that were put", name, len(got), len(data))
	}
}

func readBack(a *area) {
	if !a.put("packs/ab/abcd", []byte("content")) {
		return
	}
	a.want("packs/ab/abcd", []byte("content"))
	info, err := a.Stat(a.ctx, "packs/ab/abcd")
	if a.must(err) && info != (blob.Info{Name: "packs/ab/abcd", Size: 7}) {
		a.errorf("stat: %+v", info)
	}
}

// ignored is said of a store that puts over what is there.
const ignored = "ignores put-if-absent: the catalogue's lock is what counts"

func noReplace(a *area) {
	if !a.put("a", []byte("first")) {
		return
	}
	for _, again := range []string{"first", "other"} {
		err := a.Put(a.ctx, "a", []byte(again))
		switch {
		case err == nil:
			a.fail(Weakness{ignored})
			return
		case !errors.Is(err, blob.ErrExist):
			a.errorf("second put of %q: %w, and not that the object exists", again, err)
		}
	}
	a.want("a", []byte("first"))
}

func oneWins(a *area) {
	const writers, rounds = 8, 5
	for round := range rounds {
		name := fmt.Sprintf("points/%d", round)
		errs := make([]error, writers)
		var wg sync.WaitGroup
		for i := range writers {
			wg.Go(func() { errs[i] = a.Put(a.ctx, name, fmt.Appendf(nil, "writer %d", i)) })
		}
		wg.Wait()
		winners := 0
		for i, err := range errs {
			switch {
			case err == nil:
				winners++
			case !errors.Is(err, blob.ErrExist):
				a.errorf("writer %d: %w", i, err)
			}
		}
		switch winner := slices.Index(errs, nil); {
		case winners == 0:
			a.errorf("of %d writers of one name nobody won", writers)
		case winners > 1:
			a.fail(Weakness{fmt.Sprintf("%s (%d of %d writers of one name won)", ignored, winners, writers)})
			return
		default:
			a.want(name, fmt.Appendf(nil, "writer %d", winner))
		}
	}
}

func ranges(a *area) {
	if !a.put("a", []byte("0123456789")) {
		return
	}
	for _, r := range []struct {
		offset, length int64
		want           string
	}{{0, 10, "0123456789"}, {0, -1, "0123456789"}, {3, 4, "3456"}, {7, -1, "789"}, {9, 1, "9"}, {5, 0, ""}, {10, -1, ""}, {10, 0, ""}} {
		got, err := a.Get(a.ctx, "a", r.offset, r.length)
		if !a.must(err) {
			continue
		}
		if string(got) != r.want {
			a.errorf("get %d at %d: %q, want %q", r.length, r.offset, got, r.want)
		}
	}
	for _, r := range [][2]int64{{0, 11}, {5, 6}, {10, 1}, {11, 0}, {11, 1}, {11, -1}, {-1, 2}, {1 << 62, 1 << 62}} {
		if got, err := a.Get(a.ctx, "a", r[0], r[1]); err == nil {
			a.errorf("get %d at %d outside the object of 10 bytes: %q and no error", r[1], r[0], got)
		}
	}
}

func absent(a *area) {
	if !a.put("a/b", []byte("x")) {
		return
	}
	for _, name := range []string{"b", "a", "a/c", "a/b/c", "c/d/e"} {
		if _, err := a.Get(a.ctx, name, 0, -1); !errors.Is(err, blob.ErrNotExist) {
			a.errorf("get of %s, which is not there: %w", name, said(err))
		}
		if _, err := a.Get(a.ctx, name, 1, 2); !errors.Is(err, blob.ErrNotExist) {
			a.errorf("get of a range of %s, which is not there: %w", name, said(err))
		}
		if _, err := a.Stat(a.ctx, name); !errors.Is(err, blob.ErrNotExist) {
			a.errorf("stat of %s, which is not there: %w", name, said(err))
		}
	}
}

// said makes something to print of no error.
func said(err error) error {
	if err == nil {
		return errors.New("no error")
	}
	return err
}

func (a *area) listed(prefix string) []string {
	var found []string
	a.must(a.List(a.ctx, prefix, func(i blob.Info) error {
		found = append(found, fmt.Sprintf("%s:%d", i.Name, i.Size))
		return nil
	}))
	return found
}

func list(a *area) {
	if got := a.listed(""); len(got) != 0 {
		a.errorf("a fresh store lists %v", got)
	}
	names := []string{"vault.json", "packs/ab/1", "packs/ab/2", "packs/b/1", "packs-x", "a.b", "a/c", "a/b/c", "a-b", "a0", "B"}
	for i, name := range names {
		if !a.put(name, make([]byte, i)) {
			return
		}
	}
	sorted := slices.Sorted(slices.Values(names))
	for _, prefix := range []string{"", "packs/", "packs/a", "packs/ab/", "packs", "a", "a/", "vault.json", "zzz", "packs/ab/1"} {
		var want []string
		for _, name := range sorted {
			if strings.HasPrefix(name, prefix) {
				want = append(want, fmt.Sprintf("%s:%d", name, slices.Index(names, name)))
			}
		}
		if got := a.listed(prefix); !slices.Equal(got, want) {
			a.errorf("the listing of %q is %v, want %v", prefix, got, want)
		}
	}
}

func listError(a *area) {
	if !a.put("a", nil) || !a.put("b", nil) {
		return
	}
	stop := errors.New("stop")
	calls := 0
	err := a.List(a.ctx, "", func(blob.Info) error { calls++; return stop })
	if !errors.Is(err, stop) || calls != 1 {
		a.errorf("%w after %d calls", said(err), calls)
	}
}

func longList(a *area) {
	g, ctx := errgroup.WithContext(a.ctx)
	g.SetLimit(16)
	var want []string
	for i := range a.many() {
		name := fmt.Sprintf("packs/%02x/%06d", i*7%256, i)
		want = append(want, name+":1")
		g.Go(func() error { return a.Put(ctx, name, []byte{1}) })
	}
	if !a.must(g.Wait()) {
		return
	}
	slices.Sort(want)
	if got := a.listed("packs/"); !slices.Equal(got, want) {
		a.errorf("%d objects are listed, %d were put; or they are not in order", len(got), len(want))
	}
}

func deletes(a *area) {
	a.must(a.Delete(a.ctx, "never/was"))
	if !a.put("a/b", []byte("1")) || !a.must(a.Delete(a.ctx, "a/b")) || !a.must(a.Delete(a.ctx, "a/b")) {
		return
	}
	if _, err := a.Stat(a.ctx, "a/b"); !errors.Is(err, blob.ErrNotExist) {
		a.errorf("stat of a deleted object: %w", said(err))
	}
	if got := a.listed(""); len(got) != 0 {
		a.errorf("a deleted object is listed: %v", got)
	}
	if a.put("a/b", []byte("2")) {
		a.want("a/b", []byte("2"))
	}
}

func oddNames(a *area) {
	names := []string{
		"case/Name", "case/name", "case/NAME", "con", "nul.txt", "a.", "a..b", "-", "_", "--", "-rf", "0", "a.tar.gz",
		"deep/" + strings.Repeat("d/", 40) + "end", strings.Repeat("n", 200), strings.Repeat("p", 150) + "/" + strings.Repeat("q", 150),
	}
	for _, name := range names {
		if !a.put(name, []byte(name)) {
			return
		}
	}
	for _, name := range names {
		a.want(name, []byte(name))
	}
	if got := a.listed(""); len(got) != len(names) {
		a.errorf("%d objects are listed, want %d", len(got), len(names))
	}
}

func badNames(a *area) {
	for _, name := range []string{"", "/a", "a/", "a//b", "..", "../a", "a/../b", ".hidden", "a/.hidden", "a b", "ä", "a\x00b", "a\\b", "a?b", "a%2fb", strings.Repeat("a", 600)} {
		if err := a.Put(a.ctx, name, nil); err == nil {
			a.errorf("put of %q is accepted", name)
		}
		if _, err := a.Get(a.ctx, name, 0, -1); err == nil {
			a.errorf("get of %q is accepted", name)
		}
		if err := a.Delete(a.ctx, name); err == nil {
			a.errorf("delete of %q is accepted", name)
		}
	}
}

func cancelled(a *area) {
	ctx, cancel := context.WithCancel(a.ctx)
	cancel()
	if err := a.Put(ctx, "a", nil); err == nil {
		a.errorf("a cancelled put is done")
	}
	if _, err := a.Stat(a.ctx, "a"); !errors.Is(err, blob.ErrNotExist) {
		a.errorf("stat: %w", said(err))
	}
	if err := a.List(ctx, "", func(blob.Info) error { return nil }); err == nil && a.put("b", nil) {
		if err := a.List(ctx, "", func(blob.Info) error { return nil }); err == nil {
			a.errorf("a cancelled listing seems complete")
		}
	}
}

func buffers(a *area) {
	data := []byte("mine")
	if !a.put("a", data) {
		return
	}
	copy(data, "your")
	got, err := a.Get(a.ctx, "a", 0, -1)
	if a.must(err) {
		copy(got, "xxxx")
		a.want("a", []byte("mine"))
	}
}

// noise returns bytes that do not compress and that differ from seed to seed.
func noise(seed, size int) []byte {
	data := make([]byte, size)
	source := rand.NewChaCha8([32]byte{byte(seed), byte(seed >> 8)})
	_, _ = source.Read(data) // never fails
	return data
}

func sizes(a *area) {
	for i, size := range []int{0, 1, 4<<10 + 1, a.large()} {
		data, name := noise(i, size), fmt.Sprintf("sizes/%d", size)
		if !a.put(name, data) {
			return
		}
		a.want(name, data)
		if size < 2 {
			continue
		}
		got, err := a.Get(a.ctx, name, int64(size/2), int64(size/4))
		if a.must(err) && !bytes.Equal(got, data[size/2:size/2+size/4]) {
			a.errorf("a range in the middle of %s is not what was put", name)
		}
	}
}

// brokenOff cancels puts and gets of a large object at several times between
// their begin and their end, which breaks a connection off.
func brokenOff(a *area) {
	data := noise(77, a.large())
	began := time.Now()
	if !a.put("whole", data) {
		return
	}
	took := time.Since(began)
	for i := range 4 {
		name := fmt.Sprintf("broken/%d", i)
		ctx, cancel := context.WithTimeout(a.ctx, took*time.Duration(i+1)/5)
		err := a.Put(ctx, name, data)
		got, getErr := a.Get(ctx, "whole", 0, -1)
		cancel()
		if getErr == nil && !bytes.Equal(got, data) {
			a.errorf("a get that was broken off gave %d of %d bytes and no error", len(got), len(data))
		}
		info, statErr := a.Stat(a.ctx, name)
		switch {
		case err == nil && statErr != nil:
			a.errorf("an object that was put is not there: %w", statErr)
		case errors.Is(statErr, blob.ErrNotExist):
		case a.must(statErr) && info.Size != int64(len(data)):
			a.errorf("a put that was broken off left %d of %d bytes", info.Size, len(data))
		}
		// Whatever is there, the name must hold the whole object in the end.
		// A server may close the connection instead of saying that it is taken.
		for attempt := range 3 {
			err := a.Put(a.ctx, name, data)
			if err == nil || errors.Is(err, blob.ErrExist) {
				break
			}
			if _, there := a.Stat(a.ctx, name); there != nil && attempt == 2 {
				a.fail(err)
				return
			}
		}
		a.want(name, data)
	}
}

func concurrent(a *area) {
	var wg sync.WaitGroup
	for i := range 16 {
		wg.Go(func() {
			name := fmt.Sprintf("packs/%02d/x%d", i%4, i)
			data := bytes.Repeat([]byte{byte(i)}, 5000)
			if !a.put(name, data) {
				return
			}
			got, err := a.Get(a.ctx, name, 100, 50)
			if a.must(err) && !bytes.Equal(got, data[100:150]) {
				a.errorf("%s holds something else than was put", name)
			}
		})
	}
	wg.Wait()
	if got := a.listed("packs/"); len(got) != 16 {
		a.errorf("%d objects are listed, want 16", len(got))
	}
}
