//go:build integration

package sandbox

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"github.com/backstay/backstay/internal/sandbox/link"
)

// twoRegions brings two regions up, with freshly built programs.
func twoRegions(t *testing.T) (*Regions, context.Context) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 3*time.Minute)
	t.Cleanup(cancel)
	dir := t.TempDir()
	build := exec.Command("go", "build", "-buildvcs=false", "-o", dir+"/", "../../cmd/sandbox")
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if out, err := build.CombinedOutput(); err != nil {
		t.Fatalf("build: %v: %s", err, out)
	}
	program := filepath.Join(dir, "sandbox")
	r, err := UpRegions(ctx, Options{Binary: []string{program, "backstay"}, LinkBinary: []string{program, "carry"}}, "west", "east")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		var all []process
		for _, dir := range []string{r.Dir, filepath.Join(r.Dir, "west"), filepath.Join(r.Dir, "east")} {
			found, err := processesOf(dir)
			if err != nil {
				t.Error(err)
			}
			all = append(all, found...)
		}
		if err := r.Down(context.Background()); err != nil {
			t.Error(err)
		}
		for _, p := range all {
			if p.alive() {
				t.Errorf("process %d of the regions still runs", p.PID)
			}
		}
		if _, err := os.Stat(r.Dir); !os.IsNotExist(err) {
			t.Errorf("the folder of the regions is still there: %v", err)
		}
	})
	return r, ctx
}

// inNetwork runs a command in the network of a region.
func inNetwork(ctx context.Context, w *World, name string, args ...string) (string, error) {
	out, err := exec.CommandContext(ctx, "nsenter", append([]string{"-t", fmt.Sprint(w.Region.Network.PID), "--net", "--", name}, args...)...).CombinedOutput()
	return string(out), err
}

// TestNothingButTheLinkJoinsTwoRegions tries the ways across, the good one and the
// others, with something that answers where east's server would.
func TestNothingButTheLinkJoinsTwoRegions(t *testing.T) {
	r, ctx := twoRegions(t)
	west, east := r.Worlds[0], r.Worlds[1]
	for _, w := range r.Worlds {
		if err := w.Region.healthy(ctx); err != nil {
			t.Errorf("region %s does not answer outside: %v", w.Region.Name(), err)
		}
	}
	burnAndRebuild(t, ctx, r)
	west = r.Worlds[0]
	if err := east.Region.KillServer(ctx); err != nil { // it listens where the answers come from
		t.Fatal(err)
	}
	answer := exec.CommandContext(ctx, "nsenter", "-t", fmt.Sprint(east.Region.Network.PID), "--net", "--", "python3", "-c",
		"import socket\ns=socket.create_server(('"+own(1)+"', 7443))\nprint('up', flush=True)\nwhile True:\n c,_=s.accept()\n c.sendall(b'hello from east'); c.close()")
	out, err := answer.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	if err := answer.Start(); err != nil {
		t.Fatal(err)
	}
	defer func() { _ = answer.Process.Kill(); _ = answer.Wait() }()
	if _, err := io.ReadFull(out, make([]byte, 2)); err != nil {
		t.Fatal(err)
	}
	host, port, _ := net.SplitHostPort(east.Region.PairAddress())
	call := func() string {
		got, _ := inNetwork(ctx, west, "timeout", "1", "bash", "-c", fmt.Sprintf("cat </dev/tcp/%s/%s", host, port))
		return got
	}
	if got := call(); got != "hello from east" {
		t.Errorf("through the link west gets %q", got)
	}
	if got, err := inNetwork(ctx, west, "timeout", "1", "bash", "-c", "cat </dev/tcp/"+own(1)+"/7443"); err == nil {
		t.Errorf("west reaches east without the link: %q", got)
	}
	for _, bad := range []string{"cut", "stall", "pull west"} {
		word, value, _ := strings.Cut(bad, " ")
		if err := r.SetLink(ctx, word, value); err != nil {
			t.Fatal(err)
		}
		if got := call(); strings.Contains(got, "hello") {
			t.Errorf("with the link at %s west gets %q", bad, got)
		}
		if err := errors.Join(r.Plug(ctx, "west"), r.Link(ctx, link.Rules{})); err != nil {
			t.Fatal(err)
		}
	}
	if err := r.SetLink(ctx, "corrupt", ""); err != nil {
		t.Fatal(err)
	}
	if got := call(); got != "Hello from east" {
		t.Errorf("a corrupting link gives %q", got)
	}
	for _, rate := range []string{"1000000", "0"} {
		if err := r.SetLink(ctx, "slow", rate); err != nil {
			t.Error(err)
		}
	}
}

func burnAndRebuild(t *testing.T, ctx context.Context, r *Regions) {
	t.Helper()
	old := r.Worlds[0].Region
	if err := r.Burn(ctx, "west"); err != nil {
		t.Fatal(err)
	}
	if old.healthy(ctx) == nil || r.Worlds[1].Region.healthy(ctx) != nil {
		t.Error("a fire in west left west up, or took east down")
	}
	if _, err := os.Stat(old.Config); err != nil {
		t.Errorf("what was on west's disks is gone: %v", err)
	}
	if err := r.Rebuild(ctx, "west"); err != nil {
		t.Fatal(err)
	}
	if err := r.Worlds[0].Region.healthy(ctx); err != nil {
		t.Errorf("the new west does not answer: %v", err)
	}
	if r.Worlds[0].Region.RecoveryKey == old.RecoveryKey {
		t.Error("the new west has the old one's key")
	}
}
