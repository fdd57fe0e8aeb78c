package unit_test

import (
	"errors"
	"net/http"
	"net/http/httptest"
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
		"s3://key:hunter2@bucket", "s3://bucket?secret=hunter2", "s3://bucket?endpoint=https://me:hunter2@x", "s3://bucket?endpoint=https://x?k=hunter2",
		"azure://acct/cont?sas=hunter2", "azure://acct/cont?endpoint=hunter2", "s3://Hunter2!hunter2/", "s3://bucket/.hunter2",
		"s3://bucket?max-rate=hunter2", "s3://bucket?max-requests=0", "s3://bucket?timeout=hunter2", "s3://bucket?credentials=hunter2",
		"s3://bucket?region=a&region=b", "azure://acct", "azure://acct/", "file:///srv?endpoint=http://x", "file:///srv?cache-size=1G",
		"file:///srv?max-rate=99999999999T", "file:///srv?max-rate=M", "mem://a?cache=rel",
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
		{"s3://bucket", "s3://bucket/a", false},
		{"s3://bucket/a", "s3://bucket/a?region=x&max-rate=1M", false},
		{"s3://bucket/a", "s3://bucket/ab", true},
		{"s3://bucket/a", "s3://bucket/a?endpoint=https://other", true},
		{"s3://bucket/a?endpoint=https://x/", "s3://bucket/a/b?endpoint=https://x", false},
		{"azure://acct/cont", "azure://acct/cont/a", false},
		{"azure://acct/cont", "azure://acct/other", true},
		{"azure://acct/cont", "azure://other/cont", true},
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

func TestCredentialsComeFromAFileThatOnlyItsOwnerCanUse(t *testing.T) {
	dir := t.TempDir()
	const good = `{"access_key_id": "id", "secret_access_key": "hunter2"}`
	for name, c := range map[string]struct {
		content string
		mode    os.FileMode
		url     string
		ok      bool
	}{
		"good":         {good, 0o600, "s3://bucket", true},
		"read-only":    {good, 0o400, "s3://bucket", true},
		"for-a-group":  {good, 0o640, "s3://bucket", false},
		"for-all":      {good, 0o604, "s3://bucket", false},
		"no-key":       {`{"access_key_id": "hunter2"}`, 0o600, "s3://bucket", false},
		"other-kind":   {good, 0o600, "azure://acct/cont", false},
		"unknown-word": {`{"access_key_id": "id", "secret_access_key": "x", "hunter2": "hunter2"}`, 0o600, "s3://bucket", false},
		"not-json":     {"hunter2", 0o600, "s3://bucket", false},
		"azure-key":    {`{"account_key": "aHVudGVyMg=="}`, 0o600, "azure://acct/cont", true},
		"azure-token":  {`{"sas_token": "sig=hunter2"}`, 0o600, "azure://acct/cont", true},
		"azure-both":   {`{"account_key": "aHVudGVyMg==", "sas_token": "hunter2"}`, 0o600, "azure://acct/cont", false},
		"azure-no-b64": {`{"account_key": "hunter2!"}`, 0o600, "azure://acct/cont", false},
	} {
		path := filepath.Join(dir, name)
		if err := os.WriteFile(path, []byte(c.content), c.mode); err != nil {
			t.Fatal(err)
		}
		s, err := unit.Open(t.Context(), c.url+"?credentials="+path)
		if (err == nil) != c.ok {
			t.Errorf("%s: %v", name, err)
		}
		if err != nil && strings.Contains(err.Error(), "hunter2") {
			t.Errorf("%s: the error repeats it: %v", name, err)
		}
		if err == nil {
			place, err := s.(blob.Describer).Describe(t.Context())
			if err != nil || strings.Contains(place.URL+place.Device, "hunter2") || place.Available != -1 {
				t.Errorf("%s: %+v, %v", name, place, err)
			}
		}
	}
	if _, err := unit.Open(t.Context(), "s3://bucket?credentials="+dir+"/none"); err == nil {
		t.Error("a file that is not there is accepted")
	}
}

// What the URL asks for is put around the unit.
func TestACacheOfTheURLAnswersWhoAllowsIt(t *testing.T) {
	s, err := unit.Open(t.Context(), "mem://far-away?cache="+t.TempDir()+"&cache-size=1M&max-rate=1G&max-requests=2")
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Put(t.Context(), "a", []byte("0123")); err != nil {
		t.Fatal(err)
	}
	for range 5 {
		if got, err := s.Get(blob.AllowCached(t.Context()), "a", 1, 2); err != nil || string(got) != "12" {
			t.Errorf("%q, %v", got, err)
		}
	}
	if n := s.(blob.Counter).Requests(); n != 2 {
		t.Errorf("%d requests reached the unit, want 2", n)
	}
}

func TestABucketThatIsNotThereIsNoUnit(t *testing.T) {
	t.Setenv("AWS_ACCESS_KEY_ID", "id")
	t.Setenv("AWS_SECRET_ACCESS_KEY", "hunter2")
	server := httptest.NewServer(http.NotFoundHandler())
	defer server.Close()
	err := unit.Init(t.Context(), "s3://bucket?path-style=true&endpoint="+server.URL)
	if err == nil || strings.Contains(err.Error(), "hunter2") {
		t.Errorf("init: %v", err)
	}
}
