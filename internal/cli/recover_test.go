package cli_test

import (
	"bytes"
	"context"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/cli"
	"github.com/backstay/backstay/internal/recover/recovertest"
)

// stopper calls stop when it is told of the first bytes that were written.
type stopper struct {
	bytes.Buffer
	stop func()
}

func (s *stopper) Write(p []byte) (int, error) {
	if bytes.Contains(p, []byte("write ")) {
		s.stop()
	}
	return s.Buffer.Write(p)
}

// Ctrl-C is no fault of ours: it ends as shells have it, and what to do is said.
func TestARestoreThatIsInterruptedSaysHowToGoOn(t *testing.T) {
	var units []blob.Store
	var args []string
	for range 3 {
		dir := filepath.Join(t.TempDir(), "unit")
		if err := file.Init(dir); err != nil {
			t.Fatal(err)
		}
		units = append(units, file.New(dir))
		args = append(args, "--unit", dir)
	}
	w, err := recovertest.Make(t.Context(), 1, units...)
	if err != nil {
		t.Fatal(err)
	}
	key, to := filepath.Join(t.TempDir(), "key"), filepath.Join(t.TempDir(), "to")
	if err := os.WriteFile(key, w.Identity.Reveal(), 0o600); err != nil {
		t.Fatal(err)
	}
	args = append([]string{"recover", "restore", "web01@latest", "--to", to, "--key", key}, args...)
	ctx, stop := context.WithCancelCause(t.Context())
	errs := &stopper{stop: func() { stop(os.ErrProcessDone) }}
	if code := cli.Main(ctx, args, cli.Env{Stdout: &bytes.Buffer{}, Stderr: errs}, cli.Daemons{}); code != 130 {
		t.Errorf("exit code %d", code)
	}
	if told := errs.String(); strings.Contains(told, "error: ") || !strings.Contains(told, "the same command goes on") {
		t.Errorf("told:\n%s", told)
	}
	if code := cli.Main(t.Context(), args, cli.Env{Stdout: &bytes.Buffer{}, Stderr: &bytes.Buffer{}}, cli.Daemons{}); code != 0 {
		t.Errorf("the same again: exit code %d", code)
	}
}

// A check that was stopped is no verdict on a unit.
func TestAUnitCheckThatIsInterruptedSaysNothingOfTheUnit(t *testing.T) {
	ctx, stop := context.WithCancel(t.Context())
	stop()
	out, errs := &bytes.Buffer{}, &bytes.Buffer{}
	code := cli.Main(ctx, []string{"unit", "check", t.TempDir()}, cli.Env{Stdout: out, Stderr: errs}, cli.Daemons{})
	if code != 130 || strings.Contains(out.String()+errs.String(), "fails") || strings.Contains(errs.String(), "error: ") {
		t.Errorf("exit code %d\n%s%s", code, out, errs)
	}
}
