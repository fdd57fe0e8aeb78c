package folder

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"testing"

	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/keyringtest"
)

// TestAFolderKeepsThePortsRules runs the suite on a folder of keys.
func TestAFolderKeepsThePortsRules(t *testing.T) {
	dir := t.TempDir()
	versions := 0
	rotate := func(t *testing.T) {
		versions++
		key := make([]byte, keyBytes)
		_, _ = rand.Read(key)
		must(t, os.WriteFile(filepath.Join(dir, "vm."+strconv.Itoa(versions)+".key"), key, 0o600))
	}
	rotate(t)
	// What stands for a wrong credential is a key file that is none.
	broken := t.TempDir()
	for _, v := range []string{"1", "2"} {
		must(t, os.WriteFile(filepath.Join(broken, "vm."+v+".key"), []byte("short"), 0o600))
	}
	keyringtest.RunService(t, keyringtest.ServiceSubject{
		Service: service(t, dir, "vm"), Rotate: rotate,
		Forget: func(t *testing.T) { must(t, os.Remove(filepath.Join(dir, "vm.1.key"))) },
		Away:   service(t, filepath.Join(dir, "not-mounted"), "vm"),
		Denied: service(t, broken, "vm"), Keyless: service(t, dir, "other"),
	})
}

// TestAKeysNameLeadsNowhereElse: it is the name of a file in the folder.
func TestAKeysNameLeadsNowhereElse(t *testing.T) {
	for _, name := range []string{"", "../x", "a/b", "x.1"} {
		if _, err := New("/keys", name); err == nil {
			t.Errorf("key name %q was taken", name)
		}
	}
	if _, err := New("keys", "vm"); err == nil {
		t.Error("a relative folder was taken")
	}
}

func service(t *testing.T, dir, key string) keyring.Service {
	t.Helper()
	s, err := New(dir, key)
	must(t, err)
	return s
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
