//go:build integration

package rpc

import (
	"context"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestOnlyRootAndTheOwnerAreHeard: another user gets no answer, even where the
// socket's file was opened up to all. It needs root, to become somebody else.
func TestOnlyRootAndTheOwnerAreHeard(t *testing.T) {
	if path := os.Getenv("BACKSTAY_TEST_SOCKET"); path != "" {
		_, err := Dial("unix://" + path).Facts(context.Background())
		t.Logf("answer: %v", err == nil)
		if !backstay.IsCode(err, backstay.CodeHostAway) {
			t.Errorf("a stranger got: %v", err)
		}
		return
	}
	w := serveFake(t, quick())
	for dir := filepath.Dir(w.path); dir != "/"; dir = filepath.Dir(dir) {
		if info, err := os.Stat(dir); err != nil || info.Mode().Perm()&0o001 != 0 {
			continue
		}
		if err := os.Chmod(dir, 0o711); err != nil {
			t.Fatal(err)
		}
	}
	if err := os.Chmod(w.path, 0o666); err != nil {
		t.Fatal(err)
	}
	self := filepath.Join(filepath.Dir(w.path), "self")
	binary, err := os.ReadFile("/proc/self/exe")
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(self, binary, 0o755); err != nil {
		t.Fatal(err)
	}
	cmd := exec.Command(self, "-test.run", "^"+t.Name()+"$", "-test.v")
	cmd.Env = append(os.Environ(), "BACKSTAY_TEST_SOCKET="+w.path)
	cmd.Dir = "/"
	cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
	out, err := cmd.CombinedOutput()
	if err != nil || !strings.Contains(string(out), "answer: false") {
		t.Errorf("%v: %s", err, out)
	}
	if !strings.Contains(w.logs.String(), "refused a connection") {
		t.Errorf("the log does not say so: %s", w.logs.String())
	}
}
