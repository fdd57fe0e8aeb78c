package durable_test

import (
	"os"
	"path/filepath"
	"testing"

	"github.com/backstay/backstay/internal/durable"
)

func TestAFileIsReplacedWholeOrNotAtAll(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "file")
	for _, content := range []string{"a longer content", "short"} {
		if err := durable.WriteFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("read %q (%v) after writing %q", got, err, content)
		}
	}
	// A folder of the temporary's name: it cannot be written aside.
	if err := os.Mkdir(path+".new", 0o700); err != nil {
		t.Fatal(err)
	}
	if err := durable.WriteFile(path, []byte("never")); err == nil {
		t.Error("it was written although there is no place beside it")
	}
	if got, err := os.ReadFile(path); err != nil || string(got) != "short" {
		t.Errorf("after a failure it is %q (%v)", got, err)
	}
	for range 2 {
		if err := durable.Remove(path); err != nil {
			t.Error(err)
		}
	}
	if err := durable.DropCache(path); err == nil {
		t.Error("the cache of no file was dropped")
	}
}
