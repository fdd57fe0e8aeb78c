package unit_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/unit"
)

func TestAnOpenedUnitConforms(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store {
		url := "file://" + t.TempDir()
		if err := unit.Init(t.Context(), url); err != nil {
			t.Fatal(err)
		}
		s, err := unit.Open(t.Context(), url)
		if err != nil {
			t.Fatal(err)
		}
		return s
	})
}

func TestAURLHasOneForm(t *testing.T) {
	for raw, want := range map[string]string{
		"/srv/copy1":          "file:///srv/copy1",
		"file:///srv//copy1/": "file:///srv/copy1",
		"file:///srv/a%20b":   "file:///srv/a%20b",
		"/srv/a b?c":          "file:///srv/a%20b%3Fc",
		"mem://trial":         "mem://trial",
		"mem://trial/":        "mem://trial",
	} {
		got, err := unit.Clean(raw)
		if err != nil || got != want {
			t.Errorf("clean %s: %s, %v; want %s", raw, got, err, want)
			continue
		}
		if again, err := unit.Clean(got); err != nil || again != got {
			t.Errorf("clean %s: %s, %v", got, again, err)
		}
	}
}

// A URL is listed, logged and kept in clear.
func TestAURLWithASecretIsRefusedWithoutRepeatingIt(t *testing.T) {
	for _, raw := range []string{
		"file://hunter2@/srv", "mem://me:hunter2@x", "nfs://hunter2", "file:///srv?secret=hunter2",
		"file:///srv#hunter2", "file://hunter2/srv", "file:hunter2", "hunter2", "mem://hunter2%zz", "file:///srv?a=%zzhunter2",
		"file:///srv\x7fhunter2", "",
	} {
		_, err := unit.Parse(raw)
		if err == nil {
			t.Errorf("%q is accepted", raw)
		} else if strings.Contains(err.Error(), "hunter2") {
			t.Errorf("the error repeats it: %v", err)
		}
	}
}

func TestUnitsThatAreOnePlaceAreNotApart(t *testing.T) {
	dir := t.TempDir()
	if err := os.Symlink(dir, filepath.Join(dir, "link")); err != nil {
		t.Fatal(err)
	}
	for _, c := range []struct {
		a, b  string
		apart bool
	}{
		{dir + "/a", dir + "/b", true},
		{dir + "/a", dir + "/a", false},
		{dir + "/a", dir + "/a/b", false},
		{dir + "/a/b", dir + "/a", false},
		{dir + "/a", dir + "/ab", true},
		{dir + "/a", dir + "/link/a", false},
		{dir + "/a", "mem://a", true},
		{"mem://a", "mem://a", false},
		{"mem://a", "mem://b", true},
	} {
		a, errA := unit.Parse(c.a)
		b, errB := unit.Parse(c.b)
		if err := errors.Join(errA, errB); err != nil {
			t.Fatal(err)
		}
		if err := unit.Apart(a, b); (err == nil) != c.apart {
			t.Errorf("%s and %s: %v", c.a, c.b, err)
		}
	}
}

func TestWhatIsWrappedAroundAUnitIsMet(t *testing.T) {
	f := &fault.Fault{Kind: fault.Full, Nth: 1}
	s, err := unit.Options{Wrap: func(url string, s blob.Store) blob.Store {
		if url != "mem://wrapped" {
			t.Errorf("wrapped %s", url)
		}
		return fault.Wrap(s, f)
	}}.Open(t.Context(), "mem://wrapped/")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", nil); !errors.Is(err, blob.ErrFull) || f.Hits() != 1 {
		t.Errorf("put: %v, %d hits", err, f.Hits())
	}
	if err := s.Put(t.Context(), "a", nil); err != nil {
		t.Error(err)
	}
	if n := s.(blob.Counter).Requests(); n != 1 {
		t.Errorf("%d requests", n)
	}
}

// I5: a directory in which a disk should be mounted never becomes a unit unasked.
func TestATrialLeavesADirectoryAsItWas(t *testing.T) {
	dir := t.TempDir()
	s, done, err := unit.Options{}.Trial(t.Context(), dir)
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", []byte("1")); err != nil {
		t.Error(err)
	}
	if err := done(); err != nil {
		t.Error(err)
	}
	if left, err := os.ReadDir(dir); err != nil || len(left) != 0 {
		t.Errorf("left: %v, %v", left, err)
	}
	if _, _, err := (unit.Options{}).Trial(t.Context(), dir+"/none"); err == nil {
		t.Error("a directory that is not there is tried")
	}
	if _, err := os.Stat(dir + "/none"); !os.IsNotExist(err) {
		t.Errorf("a trial made a directory: %v", err)
	}
}
