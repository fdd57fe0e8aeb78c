//go:build integration

package soak

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"maps"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/internal/sandbox/link"
)

const (
	// west has the VM, and east holds its vault's replica.
	west, east = "west", "east"
	// replica is the vault in east that the default one of west is held as.
	replica backstay.VaultName = "default@west"
)

// pairLab is two regions that are paired. A VM of west, which is shut off, is
// protected in a vault that east holds too; the tests know what its disk holds.
type pairLab struct {
	t       *testing.T
	ctx     context.Context
	rng     *rand.Rand
	regions *sandbox.Regions
	host    *sandbox.Host // of west
	// content says what the disk holds next, and known what it held at each point.
	content int
	known   map[backstay.PointID]map[backstay.DiskTarget]string
}

// newPairLab makes the regions, pairs them and gives the vault its redundancy. All of
// it ends with the test.
func newPairLab(t *testing.T) *pairLab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Hour)
	t.Cleanup(cancel)
	program := filepath.Join(binaries, "sandbox")
	r, err := sandbox.UpRegions(ctx, sandbox.Options{Binary: []string{program, "backstay"}, LinkBinary: []string{program, "carry"}}, west, east)
	must(t, err)
	t.Cleanup(func() { must(t, r.Down(context.Background())) })
	l := &pairLab{
		t: t, ctx: ctx, rng: rand.New(rand.NewPCG(seed, 7)), regions: r, host: r.Worlds[0].Hosts[0],
		known: map[backstay.PointID]map[backstay.DiskTarget]string{},
	}
	t.Logf("seed %d", seed)
	var token struct{ Token string }
	l.run(west, &token, "region", "pair")
	l.run(east, nil, "region", "pair", token.Token)
	l.run(west, nil, "vault", "set", "default", "redundancy=GRS")
	l.run(west, nil, "policy", "create", "soak", "--every", "0")
	must(t, r.Worlds[0].AddVM(ctx, sandbox.VMSpec{Name: vm, Off: true}))
	l.eventually("west knows the VM", func() error { return l.try(west, nil, "vm", "show", vm) })
	l.run(west, nil, "protect", vm, "--policy", "soak", "--vault", "default")
	return l
}

// try runs a command of backstay against a region and decodes its JSON.
func (l *pairLab) try(region string, answer any, args ...string) error {
	w, err := l.regions.World(region)
	if err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	cmd := exec.CommandContext(ctx, filepath.Join(binaries, "backstay"), append([]string{"-o", "json"}, args...)...)
	cmd.Env = append(os.Environ(), "BACKSTAY_CONFIG="+w.Region.Client)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	if err := cmd.Run(); err != nil {
		return fmt.Errorf("%s: backstay %s: %w: %s%s", region, strings.Join(args, " "), err, stdout.String(), stderr.String())
	}
	if answer == nil {
		return nil
	}
	if err := json.Unmarshal(stdout.Bytes(), answer); err != nil {
		return fmt.Errorf("%s: backstay %s: %w", region, strings.Join(args, " "), err)
	}
	return nil
}

// run is try where it must work.
func (l *pairLab) run(region string, answer any, args ...string) {
	l.t.Helper()
	must(l.t, l.try(region, answer, args...))
}

func (l *pairLab) eventually(what string, so func() error) {
	l.t.Helper()
	for begin := time.Now(); ; time.Sleep(100 * time.Millisecond) {
		err := so()
		if err == nil {
			return
		}
		if time.Since(begin) > patience {
			l.t.Fatalf("%s: not in %v: %v", what, patience, err)
		}
	}
}

// take writes to the VM's disk and takes a point of it into the vault.
func (l *pairLab) take() backstay.PointID {
	l.t.Helper()
	l.content++
	disks, err := l.host.Disks(l.ctx, vm)
	must(l.t, err)
	for i := range 3 {
		write := fmt.Sprintf("write -P %d %dM 1M", l.content%255+1, 16*i+l.content%8)
		out, err := l.host.Command(l.ctx, "qemu-io", "-f", "qcow2", "-c", write, disks[1].Path).CombinedOutput()
		if err != nil {
			l.t.Fatalf("write to the disk: %v: %s", err, out)
		}
	}
	// Noise does not compress, so that there is a pack of some size.
	noise := fmt.Sprintf("set -o pipefail; head -c 3M /dev/urandom >/run/noise && qemu-io -f qcow2 -c 'write -s /run/noise %dM 3M' %s", 200+4*(l.content%50), disks[1].Path)
	if out, err := l.host.Command(l.ctx, "bash", "-c", noise).CombinedOutput(); err != nil {
		l.t.Fatalf("write to the disk: %v: %s", err, out)
	}
	sums := map[backstay.DiskTarget]string{}
	for _, target := range []string{"vda", "vdb"} {
		sum, err := l.host.VMSHA256(l.ctx, vm, target)
		must(l.t, err)
		sums[backstay.DiskTarget(target)] = sum
	}
	var job backstay.Job
	l.run(west, &job, "backup", vm)
	if job.State != backstay.JobSucceeded {
		l.t.Fatalf("the backup ended as %s: %v %v", job.State, job.Error, job.Warnings)
	}
	l.known[job.Point] = sums
	return job.Point
}

// replicated waits until a point is available in east, and says so in west.
func (l *pairLab) replicated(id backstay.PointID) {
	l.t.Helper()
	l.eventually("the point is available in east", func() error {
		var p backstay.RecoveryPoint
		if err := l.try(west, &p, "point", "show", string(id)); err != nil {
			return err
		}
		for _, r := range p.Replicas {
			if r.Region == east && r.State == backstay.ReplicaAvailable {
				return nil
			}
		}
		return fmt.Errorf("its replicas are %+v", p.Replicas)
	})
}

// offered reads every point that east offers, from its replica alone: each is whole,
// and is one that was taken, to the byte.
func (l *pairLab) offered() map[backstay.PointID]bool {
	l.t.Helper()
	var points []backstay.RecoveryPoint
	l.run(east, &points, "point", "list")
	there := map[backstay.PointID]bool{}
	for _, p := range points {
		want, ok := l.known[p.ID]
		if !ok || p.Vault != replica {
			l.t.Errorf("east offers a point %s of vault %s that nobody took", p.ID, p.Vault)
			continue
		}
		var job backstay.Job
		l.run(east, &job, "point", "verify", string(p.ID))
		if job.State != backstay.JobSucceeded || !maps.Equal(job.Result.SHA256, want) {
			l.t.Errorf("point %s, which east offers: its verify ended as %s: %v; it holds %v and not %v", p.ID, job.State, job.Error, job.Result.SHA256, want)
		}
		there[p.ID] = true
	}
	return there
}

// mend starts what does not run in either region, and makes the link good.
func (l *pairLab) mend() {
	l.t.Helper()
	must(l.t, errors.Join(l.regions.Link(l.ctx, link.Rules{}), l.regions.Plug(l.ctx, west), l.regions.Plug(l.ctx, east)))
	for _, w := range l.regions.Worlds {
		for _, h := range w.Hosts {
			if !h.MoverRuns() {
				must(l.t, h.StartMover(l.ctx))
			}
		}
		if !w.Region.ServerRuns() {
			must(l.t, w.Region.StartServer(l.ctx))
		}
	}
}
