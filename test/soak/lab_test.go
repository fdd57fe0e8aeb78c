//go:build integration

package soak

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/guest/image"
	"github.com/backstay/backstay/internal/sandbox"
)

const (
	vm = "web01"
	// plain and raw are the disks whose content the tests know: a qcow2 image on
	// one that is older than any protection, and a raw one.
	plain backstay.DiskTarget = "vdc"
	raw   backstay.DiskTarget = "vdd"
	// known is the size of each.
	known = 32 << 20
	// golden is what lies below the file in use when protection begins.
	golden = sandbox.Images + "/golden.qcow2"
	// patience bounds whatever is waited for.
	patience = 2 * time.Minute
)

// binaries is the folder of the freshly built programs; seed is this run's.
var (
	binaries string
	seed     uint64
	current  *lab
)

func TestMain(m *testing.M) { os.Exit(run(m)) }

func run(m *testing.M) int {
	seed = uint64(time.Now().UnixNano() % 1e9)
	if s := os.Getenv("BACKSTAY_SEED"); s != "" {
		var err error
		if seed, err = strconv.ParseUint(s, 10, 64); err != nil {
			fmt.Fprintln(os.Stderr, "BACKSTAY_SEED is no number:", err)
			return 1
		}
	}
	fmt.Printf("seed %d; BACKSTAY_SEED=%d tries the same\n", seed, seed)
	var err error
	if binaries, err = os.MkdirTemp("", "backstay-soak-"); err != nil {
		fmt.Fprintln(os.Stderr, err)
		return 1
	}
	defer os.RemoveAll(binaries)
	build := exec.Command("go", "build", "-buildvcs=false", "-o", binaries+"/", "../../cmd/...")
	build.Stdout, build.Stderr = os.Stderr, os.Stderr
	build.Env = append(os.Environ(), "CGO_ENABLED=0")
	if err := build.Run(); err != nil {
		fmt.Fprintln(os.Stderr, "build backstay and sandbox:", err)
		return 1
	}
	code := m.Run()
	if current != nil {
		if err := current.world.Down(context.Background()); err != nil {
			fmt.Fprintln(os.Stderr, "take the world down:", err)
			return 1
		}
	}
	return code
}

// lab is a world with one guest, whose disks plain and raw hold what the test
// knows.
type lab struct {
	t      *testing.T
	ctx    context.Context
	rng    *rand.Rand
	world  *sandbox.World
	host   *sandbox.Host
	client *client.Client
	spoilt bool // a test failed in it
	// content is the seed with which each of the two disks was filled.
	content int64
	// goldenSum is of the file below the one in use when protection began.
	goldenSum string
}

// policy bounds the depth as users' policies do, and drops nothing by itself.
var policy = backstay.Policy{
	Name: "soak", Consistency: backstay.FileSystemConsistent,
	Snapshot: backstay.SnapshotKeep{Days: 30, Depth: backstay.DefaultDepth}, Vault: backstay.VaultKeep{Last: 1000},
}

// newLab returns the lab for a test: the guest runs on its own files, protected,
// without a point.
func newLab(t *testing.T) *lab {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.Background(), 5*time.Hour)
	t.Cleanup(cancel)
	if current != nil && current.spoilt {
		must(t, current.world.Down(context.Background()))
		current = nil
	}
	if current == nil {
		current = makeLab(t, ctx)
	}
	l := current
	l.t, l.ctx = t, ctx
	// Every test draws from the seed on its own, so that one can be run alone.
	l.rng = rand.New(rand.NewPCG(seed, uint64(len(t.Name()))))
	t.Logf("seed %d", seed)
	l.spoilt = true
	t.Cleanup(func() { l.spoilt = t.Failed() })
	l.protect()
	return l
}

// only makes this lab that of a subtest for its time.
func (l *lab) only(t *testing.T) {
	old := l.t
	l.t = t
	t.Cleanup(func() { l.t = old })
}

func makeLab(t *testing.T, ctx context.Context) *lab {
	t.Helper()
	machine, err := image.Ensure(ctx, "")
	must(t, err)
	w, err := sandbox.Up(ctx, sandbox.Options{Binary: []string{filepath.Join(binaries, "sandbox"), "backstay"}, Machine: machine})
	must(t, err)
	l := &lab{t: t, ctx: ctx, world: w, host: w.Hosts[0], client: client.New(w.Region.URL, w.Region.Token)}
	must(t, w.AddVM(ctx, sandbox.VMSpec{Name: vm, Off: true, Disks: []sandbox.DiskSpec{
		{}, {Size: 256 << 20}, {Size: known, Blank: true}, {Raw: true, Size: known, Blank: true},
	}}))
	l.makeGolden()
	must(t, l.host.Start(ctx, vm))
	must(t, w.WaitAgent(ctx, "", vm))
	l.eventually("the region knows the VM", func() error {
		_, err := l.client.VM(ctx, vm)
		return err
	})
	_, err = l.client.CreatePolicy(ctx, policy)
	must(t, err)
	return l
}

// makeGolden puts an image below that of a disk which is older than all that
// backstay does (I15).
func (l *lab) makeGolden() {
	l.t.Helper()
	inUse := sandbox.Images + "/" + vm + "-vdc.qcow2"
	l.on("mv", inUse, golden)
	l.on("qemu-io", "-f", "qcow2", "-c", "write -P 0x5a 0 4M", "-c", "write -P 0xa5 20M 1M", golden)
	l.on("qemu-img", "create", "-q", "-f", "qcow2", "-b", golden, "-F", "qcow2", inUse)
	l.goldenSum = l.sumGolden()
}

func (l *lab) sumGolden() string {
	l.t.Helper()
	sum, _, _ := strings.Cut(l.on("sha256sum", golden), " ")
	return sum
}

// on runs a command on the host.
func (l *lab) on(name string, args ...string) string {
	l.t.Helper()
	out, err := l.host.Command(l.ctx, name, args...).CombinedOutput()
	if err != nil {
		l.t.Fatalf("%s %s: %v: %s", name, strings.Join(args, " "), err, out)
	}
	return string(out)
}

func (l *lab) guest(format string, args ...any) string {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	out, err := l.world.Guest(ctx, "", vm, fmt.Sprintf(format, args...))
	must(l.t, err)
	return strings.TrimSpace(out)
}

// eventually waits until something is so.
func (l *lab) eventually(what string, so func() error) {
	l.t.Helper()
	for begin := time.Now(); ; time.Sleep(50 * time.Millisecond) {
		err := so()
		if err == nil {
			return
		}
		if time.Since(begin) > patience {
			l.t.Fatalf("%s: not in %v: %v", what, patience, err)
		}
	}
}

// protect makes the VM protected, unless it is.
func (l *lab) protect() {
	l.t.Helper()
	items, err := l.client.Items(l.ctx)
	must(l.t, err)
	if len(items) == 0 {
		_, err = l.client.Protect(l.ctx, vm, api.ProtectRequest{Policy: policy.Name, Vault: backstay.VaultName(l.world.Region.Vault)})
		must(l.t, err)
	}
}

// write fills the known disks with content that they never had.
func (l *lab) write() {
	l.t.Helper()
	l.content++
	for i, disk := range []backstay.DiskTarget{plain, raw} {
		l.guest("ticker fill /dev/%s 0 %d %d", disk, known, 2*l.content+int64(i))
	}
}

// sums are what the known disks must hold.
func (l *lab) sums() map[backstay.DiskTarget]string { return sumsOf(l.content) }

func sumsOf(content int64) map[backstay.DiskTarget]string {
	return map[backstay.DiskTarget]string{plain: noiseSum(2*content, known), raw: noiseSum(2*content+1, known)}
}

// start starts a backup.
func (l *lab) start(tier backstay.Tier) backstay.Job {
	l.t.Helper()
	var job *backstay.Job
	l.eventually("a backup can be started", func() error {
		started, err := l.client.StartBackup(l.ctx, api.BackupRequest{VM: vm, Tier: tier})
		job = started.Job
		return err
	})
	return *job
}

// wait waits for a job, however it ends.
func (l *lab) wait(job backstay.Job) backstay.Job {
	l.t.Helper()
	ctx, cancel := context.WithTimeout(l.ctx, patience)
	defer cancel()
	job, err := l.client.Wait(ctx, job.ID)
	must(l.t, err)
	return job
}

// succeed waits for a job that must do what it is for.
func (l *lab) succeed(job backstay.Job) backstay.Job {
	l.t.Helper()
	job = l.wait(job)
	if job.State != backstay.JobSucceeded {
		l.t.Fatalf("job %s ended as %s: %v; %v", job.Kind, job.State, job.Error, job.Warnings)
	}
	return job
}

// take takes a point that must succeed, and returns it.
func (l *lab) take(tier backstay.Tier) backstay.PointID {
	l.t.Helper()
	return l.succeed(l.start(tier)).Point
}

// points lists the points, oldest first.
func (l *lab) points() []backstay.RecoveryPoint {
	l.t.Helper()
	points, err := l.client.Points(l.ctx, vm)
	must(l.t, err)
	slices.SortFunc(points, func(a, b backstay.RecoveryPoint) int { return strings.Compare(string(a.ID), string(b.ID)) })
	return points
}

// drop deletes a point; it is no error if it is gone.
func (l *lab) drop(id backstay.PointID) {
	l.t.Helper()
	job, err := l.client.DeletePoint(l.ctx, string(id))
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return
	}
	must(l.t, err)
	l.succeed(job)
}

// keep deletes the oldest points beyond n.
func (l *lab) keep(n int) {
	l.t.Helper()
	for points := l.points(); len(points) > n; points = points[1:] {
		l.drop(points[0].ID)
	}
}

// verify reads a point in a tier and returns the SHA-256 of its disks.
func (l *lab) verify(id backstay.PointID, tier backstay.Tier) map[backstay.DiskTarget]string {
	l.t.Helper()
	job, err := l.client.VerifyPoint(l.ctx, string(id), tier)
	must(l.t, err)
	return l.succeed(job).Result.SHA256
}

// holds sees that the known disks are as they must be.
func (l *lab) holds(what string, got, want map[backstay.DiskTarget]string) {
	l.t.Helper()
	for disk, sum := range want {
		if got[disk] != sum {
			l.t.Errorf("%s: disk %s does not hold what it held: SHA-256 %s, not %s", what, disk, got[disk], sum)
		}
	}
}

// guestHolds sees that the guest reads on its disks what it wrote.
func (l *lab) guestHolds(what string) {
	l.t.Helper()
	read := strings.Fields(l.guest("ticker sum /dev/%s /dev/%s", plain, raw))
	if len(read) != 2 {
		l.t.Fatalf("%s: the guest answered %q", what, read)
	}
	l.holds(what+": in the guest", map[backstay.DiskTarget]string{plain: read[0], raw: read[1]}, l.sums())
}

// inOrder sees that the guest runs and works, and that nothing was left behind
// anywhere (I9), nor anything written where it may not be (I15).
func (l *lab) inOrder(what string) {
	l.t.Helper()
	state, err := l.host.State(l.ctx, vm)
	must(l.t, err)
	if state != sandbox.Running {
		l.t.Fatalf("%s: the VM is %s", what, state)
	}
	l.eventually(what+": the guest is not frozen", func() error {
		frozen, err := l.world.Frozen(l.ctx, "", vm)
		if err == nil && frozen {
			err = errors.New("it is")
		}
		return err
	})
	l.guest("echo works >/data/works; echo works >/var/log/works; sync")
	l.eventually(what+": nothing is left behind", func() error { return l.world.Tidy(l.ctx) })
	if sum := l.sumGolden(); sum != l.goldenSum {
		l.t.Errorf("%s: the file below the one that the VM used when its protection began was written to", what)
	}
}

// mend starts whatever does not run, the VM too.
func (l *lab) mend() {
	l.t.Helper()
	l.mendParts()
	// libvirt sees a moment later that a process of QEMU is gone.
	l.eventually("the VM runs", func() error {
		if _, err := l.host.QEMUPID(vm); err == nil {
			state, err := l.host.State(l.ctx, vm)
			if err == nil && state == sandbox.Paused {
				return nil // whoever looks at it will say so
			}
			if err == nil && state == sandbox.Running && l.alive() {
				return nil
			}
			return fmt.Errorf("it is %s: %w", state, err)
		}
		return l.host.Start(l.ctx, vm)
	})
}

// mendParts starts whatever does not run but the VM.
func (l *lab) mendParts() {
	l.t.Helper()
	if !l.host.LibvirtdRuns() {
		must(l.t, l.host.StartLibvirtd(l.ctx))
	}
	if !l.host.MoverRuns() {
		must(l.t, l.host.StartMover(l.ctx))
	}
	if !l.world.Region.ServerRuns() {
		must(l.t, l.world.Region.StartServer(l.ctx))
	}
	l.eventually("the host is connected", func() error {
		hosts, err := l.client.Hosts(l.ctx)
		if err == nil && (len(hosts) != 1 || hosts[0].State != "connected") {
			err = fmt.Errorf("hosts are %+v", hosts)
		}
		return err
	})
}

// alive tells whether the VM's process is there.
func (l *lab) alive() bool {
	pid, err := l.host.QEMUPID(vm)
	if err != nil {
		return false
	}
	_, err = os.Stat(fmt.Sprintf("/proc/%d/exe", pid))
	return err == nil
}

// quiet waits until no job runs.
func (l *lab) quiet() {
	l.t.Helper()
	for {
		jobs, err := l.client.Jobs(l.ctx, 10, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
		must(l.t, err)
		if len(jobs) == 0 {
			return
		}
		l.wait(jobs[0])
	}
}

// chain returns the images of a disk from the top down.
func (l *lab) chain(target backstay.DiskTarget) []string {
	l.t.Helper()
	disks, err := l.host.Disks(l.ctx, vm)
	must(l.t, err)
	for _, d := range disks {
		if d.Target == string(target) {
			chain, err := l.host.Chain(l.ctx, d.Path)
			must(l.t, err)
			return chain
		}
	}
	l.t.Fatalf("the VM has no disk %s", target)
	return nil
}

// sample returns all cases in a random order, or so many of them.
func sample[T any](l *lab, n int, cases []T) []T {
	l.rng.Shuffle(len(cases), func(i, j int) { cases[i], cases[j] = cases[j], cases[i] })
	if whole {
		return cases
	}
	return cases[:min(n, len(cases))]
}

// times is how often something is repeated: all in the soak, a sample else.
func times(all, some int) int {
	if whole {
		return all
	}
	return some
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}
