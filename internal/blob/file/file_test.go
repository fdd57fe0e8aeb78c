package file_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/file"
)

func fresh(t *testing.T) (*file.Store, string) {
	t.Helper()
	dir := filepath.Join(t.TempDir(), "a", "unit")
	if err := file.Init(dir); err != nil {
		t.Fatal(err)
	}
	return file.New(dir), dir
}

func TestConformance(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		s, _ := fresh(t)
		return s
	})
}

func TestAMissingOrUnmarkedRootIsAwayNeverEmpty(t *testing.T) {
	s, dir := fresh(t)
	if err := s.Put(t.Context(), "a", []byte("1")); err != nil {
		t.Fatal(err)
	}
	check := func(what string) {
		t.Helper()
		_, get := s.Get(t.Context(), "a", 0, -1)
		_, stat := s.Stat(t.Context(), "a")
		_, describe := s.Describe(t.Context())
		list := s.List(t.Context(), "", func(blob.Info) error { return nil })
		for call, err := range map[string]error{"get": get, "stat": stat, "list": list, "describe": describe,
			"put": s.Put(t.Context(), "b", nil), "delete": s.Delete(t.Context(), "a")} {
			if !errors.Is(err, blob.ErrAway) || errors.Is(err, blob.ErrNotExist) {
				t.Errorf("%s: %s: %v", what, call, err)
			}
		}
	}
	if err := os.Rename(dir, dir+".gone"); err != nil {
		t.Fatal(err)
	}
	check("no folder")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	check("an empty mount point")
	entries, err := os.ReadDir(dir)
	if err != nil || len(entries) != 0 {
		t.Errorf("something was written into the mount point: %v %v", entries, err)
	}
}

func TestInitIsRepeatableAndRefusesForeignFolders(t *testing.T) {
	_, dir := fresh(t)
	if err := file.Init(dir); err != nil {
		t.Errorf("second init: %v", err)
	}
	other := t.TempDir()
	if err := os.WriteFile(filepath.Join(other, "letter.txt"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := file.Init(other); err == nil || !strings.Contains(err.Error(), "letter.txt") {
		t.Errorf("a folder with other files: %v", err)
	}
	if err := file.Init("relative"); err == nil {
		t.Error("a relative path is accepted")
	}
}

func TestUnfinishedFilesAreNeverListedAndSweptOnlyWhenTheirWriterIsGone(t *testing.T) {
	_, dir := fresh(t)
	aside := filepath.Join(dir, ".backstay-new")
	if err := os.MkdirAll(aside, 0o700); err != nil {
		t.Fatal(err)
	}
	dead, alive := filepath.Join(aside, "dead"), filepath.Join(aside, "alive")
	if err := os.WriteFile(dead, []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(alive)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		t.Fatal(err)
	}
	s := file.New(dir)
	if err := s.List(t.Context(), "", func(i blob.Info) error { t.Errorf("%s is listed", i.Name); return nil }); err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Fatal(err)
	}
	if _, err := os.Stat(dead); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a dead writer's file is kept: %v", err)
	}
	if _, err := os.Stat(alive); err != nil {
		t.Errorf("a living writer's file is swept: %v", err)
	}
}

func TestPlaceTellsDeviceAndRoom(t *testing.T) {
	s, dir := fresh(t)
	place, err := s.Describe(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	if place.URL != "file://"+dir || place.Device == "" || place.Available <= 0 {
		t.Errorf("%+v", place)
	}
}

func TestAFullFileSystemIsSaidToBeFull(t *testing.T) {
	s, _ := fresh(t)
	// A limit on the size of files stands in for a full disk: same path, no root.
	// It holds for all that this process writes, also for go test's own log, so
	// it is far above what that needs.
	const limit = 8 << 20
	var old unix.Rlimit
	if err := unix.Getrlimit(unix.RLIMIT_FSIZE, &old); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setrlimit(unix.RLIMIT_FSIZE, &unix.Rlimit{Cur: limit, Max: old.Max}); err != nil {
		t.Fatal(err)
	}
	err := s.Put(t.Context(), "packs/ab/1", make([]byte, limit+1))
	if restore := unix.Setrlimit(unix.RLIMIT_FSIZE, &old); restore != nil {
		t.Fatal(restore)
	}
	if !errors.Is(err, blob.ErrFull) {
		t.Errorf("put: %v", err)
	}
	if _, err := s.Stat(t.Context(), "packs/ab/1"); !errors.Is(err, blob.ErrNotExist) {
		t.Errorf("a part of the object is there: %v", err)
	}
	if err := s.Put(t.Context(), "packs/ab/1", []byte("now there is room")); err != nil {
		t.Error(err)
	}
}
