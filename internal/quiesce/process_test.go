package quiesce

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// TestMain is a guard process when it is told so: its guest is frozen as long as
// the file that its URI names is there.
func TestMain(m *testing.M) {
	if len(os.Args) > 1 && os.Args[1] == "guard" {
		open := func(_ context.Context, uri string) (hypervisor.Guests, func() error, error) {
			if _, err := os.Stat(uri); err != nil {
				return nil, nil, err
			}
			return fileGuest{path: uri}, func() error { return nil }, nil
		}
		if err := Serve(context.Background(), os.Stdin, os.Stdout, open, nil); err != nil {
			os.Exit(1)
		}
		return
	}
	os.Exit(m.Run())
}

// fileGuest is frozen while its file is there.
type fileGuest struct {
	hypervisor.Guests
	path string
}

func (g fileGuest) Thaw(context.Context, backstay.VMID) (int, error) {
	if os.Remove(g.path) != nil {
		return 0, nil
	}
	return 1, nil
}

func (g fileGuest) AgentCommand(context.Context, backstay.VMID, string, time.Duration) (string, error) {
	return `{"return":"thawed"}`, nil
}

func frozenFile(t *testing.T) string {
	t.Helper()
	path := t.TempDir() + "/frozen"
	must(t, os.WriteFile(path, nil, 0o600))
	return path
}

func thawedSoon(t *testing.T, path string) {
	t.Helper()
	for t.Context().Err() == nil {
		if _, err := os.Stat(path); errors.Is(err, fs.ErrNotExist) {
			return
		}
		time.Sleep(time.Millisecond)
	}
}

func startGuard(t *testing.T, path string) Guard {
	t.Helper()
	g, err := Processes{Command: []string{"/proc/self/exe", "guard"}, Libvirt: path}.Start(t.Context(), vmID)
	must(t, err)
	return g
}

// TestAGuardInAProcessOfItsOwn keeps to what Guard promises.
func TestAGuardInAProcessOfItsOwn(t *testing.T) {
	path := frozenFile(t)
	g := startGuard(t, path)
	must(t, g.Arm(time.Hour, false))
	if fired, err := g.Disarm(); err != nil || fired != 0 {
		t.Errorf("fired at %d, %v", fired, err)
	}
	if _, err := os.Stat(path); err != nil {
		t.Error("a guard that was disarmed thawed the guest")
	}

	g = startGuard(t, path)
	before := now()
	must(t, g.Arm(time.Millisecond, false))
	thawedSoon(t, path)
	if fired, err := g.Disarm(); err != nil || fired < before || fired > now() {
		t.Errorf("fired at %d, %v; it was between %d and %d", fired, err, before, now())
	}

	path = frozenFile(t)
	g = startGuard(t, path)
	must(t, g.Arm(time.Hour, false))
	g.Fire()
	thawedSoon(t, path)

	path = frozenFile(t)
	g = startGuard(t, path)
	must(t, g.Arm(time.Hour, false))
	g.(*processGuard).end() // what the end of this process does
	thawedSoon(t, path)
}

// TestAGuardThatCannotConnectIsNoGuard: nothing is frozen then.
func TestAGuardThatCannotConnectIsNoGuard(t *testing.T) {
	_, err := Processes{Command: []string{"/proc/self/exe", "guard"}, Libvirt: t.TempDir() + "/nowhere"}.Start(t.Context(), vmID)
	if err == nil || !strings.Contains(err.Error(), "nowhere") {
		t.Errorf("error is %v", err)
	}
	if _, err := (Processes{Command: []string{"/nonexistent"}}).Start(t.Context(), vmID); err == nil {
		t.Error("a guard without a program was started")
	}
}
