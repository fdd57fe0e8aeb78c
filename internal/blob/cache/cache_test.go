package cache_test

import (
	"bytes"
	"context"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/cache"
	"github.com/backstay/backstay/internal/blob/count"
	"github.com/backstay/backstay/internal/blob/mem"
)

// allowed lets a cache answer every get.
type allowed struct{ blob.Store }

func (a allowed) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	return a.Store.Get(blob.AllowCached(ctx), name, offset, length)
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		return cache.Wrap(mem.New(), cache.Options{Dir: t.TempDir(), Unit: "u", Size: 1 << 30})
	})
}

func TestConformanceOfWhatTheFolderAnswers(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		// All but a name that is used again after a delete, which vaults never do,
		// so names are told apart by their store.
		return allowed{cache.Wrap(mem.New(), cache.Options{Dir: t.TempDir(), Unit: t.Name(), Size: 1 << 30})}
	})
}

type world struct {
	below *count.Store
	dir   string
	size  int64
}

func (w *world) open() *cache.Store {
	return cache.Wrap(w.below, cache.Options{Dir: w.dir, Unit: "u", Size: w.size})
}

func fresh(t *testing.T, size int64) *world {
	m := mem.New()
	for i := range 20 {
		m.Replace(fmt.Sprintf("packs/%02d", i), bytes.Repeat([]byte{byte(i)}, 1000))
	}
	return &world{count.Wrap(m), filepath.Join(t.TempDir(), "cache"), size}
}

func get(t *testing.T, s blob.Store, i int) {
	t.Helper()
	got, err := s.Get(blob.AllowCached(t.Context()), fmt.Sprintf("packs/%02d", i), 100, 500)
	if err != nil || !bytes.Equal(got, bytes.Repeat([]byte{byte(i)}, 500)) {
		t.Errorf("get %d: %v", i, err)
	}
}

func TestWhatWasReadIsNotAskedForAgainAlsoByTheNextProcess(t *testing.T) {
	w := fresh(t, 1<<20)
	s := w.open()
	get(t, s, 1)
	get(t, s, 1)
	get(t, w.open(), 1)
	if n := w.below.Requests(); n != 1 || s.Hits() != 1 {
		t.Errorf("%d requests, %d hits", n, s.Hits())
	}
}

// Who verifies a store or reads back what he wrote must see the store (I5).
func TestNobodyIsAnsweredByTheFolderUnasked(t *testing.T) {
	w := fresh(t, 1<<20)
	s := w.open()
	get(t, s, 1)
	for range 2 {
		if _, err := s.Get(t.Context(), "packs/01", 100, 500); err != nil {
			t.Error(err)
		}
	}
	if n := w.below.Requests(); n != 3 {
		t.Errorf("%d requests, want 3", n)
	}
}

func TestWhatWasNotUsedForLongestGoesFirst(t *testing.T) {
	w := fresh(t, 10*532)
	s := w.open()
	for i := range 10 {
		get(t, s, i)
	}
	get(t, s, 0)  // used again
	get(t, s, 10) // so this one takes the place of 1
	before := w.below.Requests()
	get(t, s, 0)
	if n := w.below.Requests(); n != before {
		t.Error("what was used of late is gone")
	}
	get(t, s, 1)
	if n := w.below.Requests(); n != before+1 {
		t.Error("what was not used for longest is still there")
	}
	var bytes int64
	err := filepath.WalkDir(w.dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		info, err := d.Info()
		bytes += info.Size()
		return err
	})
	if err != nil || bytes > w.size {
		t.Errorf("the folder holds %d bytes of %d, %v", bytes, w.size, err)
	}
}

func TestADamagedOrHalfWrittenFolderCostsARequestAndNothingElse(t *testing.T) {
	for name, damage := range map[string]func(string) error{
		"flipped": func(p string) error {
			data, err := os.ReadFile(p)
			if err == nil {
				data[len(data)/2] ^= 1
				err = os.WriteFile(p, data, 0o600)
			}
			return err
		},
		"cut":       func(p string) error { return os.Truncate(p, 40) },
		"empty":     func(p string) error { return os.Truncate(p, 0) },
		"gone":      os.Remove,
		"another's": func(p string) error { return os.WriteFile(p, bytes.Repeat([]byte{7}, 532), 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			w := fresh(t, 1<<20)
			get(t, w.open(), 1)
			files, err := filepath.Glob(w.dir + "/??/*")
			if err != nil || len(files) != 1 {
				t.Fatal(files, err)
			}
			if err := damage(files[0]); err != nil {
				t.Fatal(err)
			}
			s := w.open()
			get(t, s, 1)
			get(t, s, 1)
			if n := w.below.Requests(); n != 2 {
				t.Errorf("%d requests, want 2", n)
			}
		})
	}
}

// An entry of one unit is never given for another, even if its file is moved.
func TestTwoUnitsInOneFolderAreKeptApart(t *testing.T) {
	w := fresh(t, 1<<20)
	get(t, w.open(), 1)
	other := mem.New()
	other.Replace("packs/01", bytes.Repeat([]byte{9}, 1000))
	s := cache.Wrap(other, cache.Options{Dir: w.dir, Unit: "other", Size: 1 << 20})
	got, err := s.Get(blob.AllowCached(t.Context()), "packs/01", 100, 500)
	if err != nil || got[0] != 9 {
		t.Errorf("%v, %v", got[:1], err)
	}
}

func TestAFolderThatCannotBeUsedIsNoError(t *testing.T) {
	w := fresh(t, 1<<20)
	w.dir = filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(w.dir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	s := w.open()
	get(t, s, 1)
	get(t, s, 1)
}
