package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
	"github.com/backstay/backstay/internal/mover/rpc"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	sourceVM = backstay.VMID("11111111-1111-4111-8111-111111111111")
	copyVM   = backstay.VMID("5d3f6a60-0000-4000-8000-00000000beef")
	testSize = 4 << 20
	testJob  = backstay.JobID("01JB0000000000000000000001")
	pointID  = backstay.PointID("01JP0000000000000000000001")
)

var instant = time.Date(2025, 4, 1, 12, 0, 0, 0, time.UTC)

// define is the call without the warnings, which these tests do not look at.
func define(t *testing.T, w *testWorld, r mover.StageRequest) error {
	_, err := w.host.Define(t.Context(), r)
	return err
}

// testWorld is a host with a running VM of two disks, on a fake hypervisor and
// a real vault in memory.
type testWorld struct {
	t      *testing.T
	dir    string
	hv     *fake.Host
	host   *Host
	store  blob.Store
	access mover.VaultAccess
	logs   *lockedBuffer
	// domain, if set, changes what the hypervisor says of a VM.
	domain func(*hypervisor.Domain)
}

type lockedBuffer struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (b *lockedBuffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.Write(p)
}

func (b *lockedBuffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.buf.String()
}

// seenHost lets a test change what the fake says.
type seenHost struct {
	*fake.Host
	w *testWorld
}

func (s seenHost) Domain(ctx context.Context, id backstay.VMID) (hypervisor.Domain, error) {
	d, err := s.Host.Domain(ctx, id)
	if err == nil && s.w.domain != nil {
		s.w.domain(&d)
	}
	return d, err
}

func newTestWorld(t *testing.T) *testWorld {
	t.Helper()
	base := "/dev/shm" // in memory: everything here is synced many times
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "mh") // short: it holds sockets
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &testWorld{t: t, dir: dir, logs: &lockedBuffer{}}
	for _, d := range []string{"hv", "vms", "out"} {
		must(t, os.Mkdir(filepath.Join(dir, d), 0o700))
	}
	ctx := context.Background()
	w.hv = fake.New(filepath.Join(dir, "hv"))
	w.hv.Hook = func(string) error { return nil }
	must(t, w.hv.Create(ctx, w.path("vms/web01.raw"), "raw", testSize))
	must(t, w.hv.Create(ctx, w.path("vms/data.qcow2"), "qcow2", testSize))
	_, err = w.hv.Define(ctx, fake.XML("web01", sourceVM,
		backstay.Disk{Target: "vda", Source: w.path("vms/web01.raw"), Format: "raw"},
		backstay.Disk{Target: "vdb", Source: w.path("vms/data.qcow2"), Format: "qcow2"}))
	must(t, err)
	must(t, w.hv.Start(ctx, sourceVM))
	w.fill()
	w.makeVault()
	w.host, err = New(Options{
		Hypervisor: seenHost{w.hv, w}, Images: w.hv, Keyring: keyfile.New(w.path("keys")), StateDir: w.path("state"), SocketDir: w.path("s"),
		OpenVault: w.openVault, Name: "h1", Log: slog.New(slog.NewTextHandler(w.logs, nil)),
	})
	must(t, err)
	return w
}

func (w *testWorld) path(p string) string { return filepath.Join(w.dir, p) }

// fill writes random pages with zeros between them.
func (w *testWorld) fill() {
	w.t.Helper()
	r := rand.New(rand.NewPCG(1, 2))
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		for range 40 {
			data := make([]byte, 4096*(1+r.IntN(4)))
			for i := range data {
				data[i] = byte(r.Uint32())
			}
			off := int64(r.IntN(testSize/4096-8)) * 4096
			must(w.t, w.hv.WriteGuest(sourceVM, target, off, data))
		}
	}
}

func (w *testWorld) makeVault() {
	w.t.Helper()
	w.store = replica.New(mem.New(), mem.New(), mem.New())
	must(w.t, w.newVault())
}

// newVault makes a vault in the world's store.
func (w *testWorld) newVault() error {
	_, recipient, err := vault.NewIdentity()
	if err != nil {
		return err
	}
	master, err := vault.Create(context.Background(), w.store, vault.CreateOptions{
		ID: "7b1a5f0e-5f0a-4c56-9a4e-1a8f3c1d2e3f", Name: "main", Redundancy: backstay.LRS, Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: instant,
	})
	if err != nil {
		return err
	}
	w.access = mover.VaultAccess{Name: "main", ID: "7b1a5f0e-5f0a-4c56-9a4e-1a8f3c1d2e3f", Redundancy: backstay.LRS, Key: master}
	return nil
}

func (w *testWorld) openVault(ctx context.Context, a mover.VaultAccess, options ...vault.OpenOption) (*vault.Vault, error) {
	return vault.Open(ctx, w.store, a.ID, a.Key, options...)
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// backup takes a point into both tiers and returns a restore of it.
func (w *testWorld) backup(tier backstay.Tier) mover.StageRequest {
	w.t.Helper()
	ctx := w.t.Context()
	_, err := w.host.Prepare(ctx, mover.PrepareRequest{Job: testJob, Point: pointID, VM: sourceVM, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	must(w.t, err)
	taken, err := w.host.Take(ctx, mover.TakeRequest{Job: testJob, Point: pointID, VM: sourceVM, Consistency: backstay.CrashConsistent, Time: instant})
	must(w.t, err)
	_, err = w.host.Transfer(ctx, mover.TransferRequest{Job: testJob, Point: pointID, Vault: w.access}, nil)
	must(w.t, err)
	plan := movertest.Plan(taken, tier, w.path("out"))
	return mover.StageRequest{Job: testJob + "R", Plan: plan, Vault: &w.access}
}

// content reads a whole disk through the hypervisor's eyes.
func (w *testWorld) content(id backstay.VMID, target backstay.DiskTarget) []byte {
	w.t.Helper()
	data := make([]byte, testSize)
	must(w.t, w.hv.ReadGuest(id, target, 0, data))
	return data
}

// left lists what is in the restore's folder and its journals.
func (w *testWorld) left() []string {
	w.t.Helper()
	var found []string
	for _, dir := range []string{"out", "state/restores"} {
		_ = filepath.WalkDir(w.path(dir), func(path string, e fs.DirEntry, err error) error {
			if err == nil && !e.IsDir() {
				found = append(found, path)
			}
			return nil
		})
	}
	return found
}

// users lists who stands on the layers of the point.
func (w *testWorld) users() []snapshot.User {
	w.t.Helper()
	point, err := w.host.openPoint(w.t.Context(), pointID)
	must(w.t, err)
	var users []snapshot.User
	for _, d := range point.Disks {
		users = append(users, d.Chain[0].Users...)
	}
	return users
}

// TestTheHostKeepsThePortsRules, by itself and behind its socket.
func TestTheHostKeepsThePortsRules(t *testing.T) {
	subject := func(w *testWorld) movertest.Subject {
		return movertest.Subject{Mover: w.host, VM: sourceVM, Vault: w.access, Folder: w.path("out"), Logs: w.logs.String}
	}
	t.Run("Here", func(t *testing.T) {
		movertest.Run(t, func(t *testing.T) movertest.Subject { return subject(newTestWorld(t)) })
	})
	t.Run("BehindASocket", func(t *testing.T) {
		movertest.Run(t, func(t *testing.T) movertest.Subject {
			w := newTestWorld(t)
			l, err := rpc.Listen(w.path("mover.sock"))
			must(t, err)
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- rpc.Serve(ctx, l, w.host, w.host.log) }()
			t.Cleanup(func() {
				cancel()
				if err := <-done; err != nil {
					t.Error(err)
				}
			})
			s := subject(w)
			s.Mover = rpc.Dial("unix://" + w.path("mover.sock"))
			return s
		})
	})
}

// TestARestoredVMHoldsTheBytesOfThePoint, from either tier, though the source
// wrote on since (I8: and the source is as it was).
func TestARestoredVMHoldsTheBytesOfThePoint(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		t.Run(string(tier), func(t *testing.T) {
			w := newTestWorld(t)
			want := map[backstay.DiskTarget][]byte{"vda": w.content(sourceVM, "vda"), "vdb": w.content(sourceVM, "vdb")}
			r := w.backup(tier)
			for target := range want {
				must(t, w.hv.WriteGuest(sourceVM, target, 8192, bytes.Repeat([]byte("later "), 4096)))
			}
			var phases []string
			staged, err := w.host.Stage(t.Context(), r, func(r mover.Report) {
				if !slices.Contains(phases, r.Phase) {
					phases = append(phases, r.Phase)
				}
			})
			must(t, err)
			if tier == backstay.SnapshotTier && staged.BytesWritten != 0 {
				t.Errorf("%d bytes were copied from the snapshot tier", staged.BytesWritten)
			}
			if tier == backstay.VaultTier && (staged.BytesWritten == 0 || staged.BytesWritten > 2*testSize/2) {
				t.Errorf("%d bytes were written; zeros are to be left out", staged.BytesWritten)
			}
			if !slices.Equal(phases, []string{"write", "verify"}) {
				t.Errorf("phases %v", phases)
			}
			must(t, define(t, w, r))
			r.Plan.Probe.Kind = backstay.ProbeAgent
			up, err := w.host.Start(t.Context(), r)
			must(t, err)
			if up.How == "" {
				t.Error("it is not said how the VM came up")
			}
			for target, data := range want {
				if !bytes.Equal(w.content(copyVM, target), data) {
					t.Errorf("disk %s is not that of the point", target)
				}
			}
		})
	}
}

// TestALayerIsKeptWhileARestoredVMStandsOnIt, from before its overlay is made
// until it is gone.
func TestALayerIsKeptWhileARestoredVMStandsOnIt(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	made := 0
	w.hv.Hook = func(call string) error {
		if call == "create-overlay" {
			if made++; len(w.users()) != 2 {
				t.Error("an overlay is made on a layer that nothing keeps from being merged")
			}
		}
		return nil
	}
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	if users := w.users(); made != 2 || len(users) != 2 || users[0].ID != string(copyVM) || users[0].Overlay == "" {
		t.Fatalf("made %d overlays, users %+v", made, users)
	}
	if err := w.host.DropPoint(t.Context(), pointID, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("dropping the point below a restored VM: %v", err)
	}
	must(t, w.host.Abandon(t.Context(), r))
	if users := w.users(); len(users) != 0 {
		t.Errorf("users after abandoning: %+v", users)
	}
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
}

// TestARestoredVMThatWasDeletedKeepsNoLayer: its owner undefined it and removed
// its disks. While they are being made they are missing too.
func TestARestoredVMThatWasDeletedKeepsNoLayer(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	j, err := w.host.newJournal(r)
	must(t, err)
	must(t, j.write())
	for _, d := range r.Plan.Disks {
		must(t, w.host.tier.AddUser(r.Plan.Point, d.Target, snapshot.User{
			Kind: snapshot.UserVM, ID: string(r.Plan.UUID), Job: r.Job, Since: time.Unix(1, 0), Overlay: d.Path,
		}))
	}
	if err := w.host.DropPoint(t.Context(), pointID, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Fatalf("dropping the point below a VM in the making: %v", err)
	}
	_, err = w.host.Stage(t.Context(), r, nil)
	must(t, err)
	for _, d := range r.Plan.Disks {
		must(t, os.Remove(d.Path))
	}
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
}

// TestAFailedStageLeavesNothing, at whatever call it fails.
func TestAFailedStageLeavesNothing(t *testing.T) {
	for _, planned := range []struct {
		tier backstay.Tier
		call string
		nth  int
	}{
		{backstay.SnapshotTier, "create-overlay", 1}, {backstay.SnapshotTier, "create-overlay", 2},
		{backstay.VaultTier, "create", 2}, {backstay.VaultTier, "export", 1}, {backstay.VaultTier, "export", 4},
	} {
		t.Run(fmt.Sprint(planned), func(t *testing.T) {
			w := newTestWorld(t)
			r := w.backup(planned.tier)
			seen := 0
			w.hv.Hook = func(call string) error {
				if call == planned.call {
					if seen++; seen == planned.nth {
						return fmt.Errorf("planned: %w", syscall.ENOSPC)
					}
				}
				return nil
			}
			if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeNoSpace) {
				t.Errorf("%v, want code no-space", err)
			}
			if left := w.left(); len(left) != 0 || len(w.users()) != 0 {
				t.Errorf("left %v, users %v", left, w.users())
			}
		})
	}
}

// TestACancelledStageLeavesNothing wherever it is cancelled.
func TestACancelledStageLeavesNothing(t *testing.T) {
	for _, phase := range []string{"write", "verify"} {
		w := newTestWorld(t)
		r := w.backup(backstay.VaultTier)
		ctx, cancel := context.WithCancelCause(t.Context())
		_, err := w.host.Stage(ctx, r, func(r mover.Report) {
			if r.Phase == phase {
				cancel(backstay.ErrCancelled)
			}
		})
		if !errors.Is(err, backstay.ErrCancelled) {
			t.Errorf("cancelled in %s: %v", phase, err)
		}
		if left := w.left(); len(left) != 0 {
			t.Errorf("cancelled in %s: left %v", phase, left)
		}
	}
}

// TestAStageAfterACrashStartsAgain: the killed attempt's half files, and only
// those, are replaced.
func TestAStageAfterACrashStartsAgain(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		w := newTestWorld(t)
		r := w.backup(tier)
		// The journal names both files, one was half made, then the power failed.
		j, err := w.host.newJournal(r)
		must(t, err)
		j.add(r.Plan.Disks[0].Path, r.Plan.Disks[1].Path)
		must(t, j.write())
		must(t, os.WriteFile(r.Plan.Disks[0].Path, []byte("half"), 0o600))
		_, err = w.host.Stage(t.Context(), r, nil)
		must(t, err)
		must(t, define(t, w, r))
		want := w.content(sourceVM, "vda")
		if !bytes.Equal(w.content(copyVM, "vda"), want) {
			t.Errorf("%s: the disk is not that of the point", tier)
		}
	}
}

// TestAFileThatWasThereBeforeIsNeverTouched: neither by Stage, nor by its undo,
// nor by Abandon.
func TestAFileThatWasThereBeforeIsNeverTouched(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	mine := r.Plan.Disks[1].Path
	must(t, os.WriteFile(mine, []byte("mine"), 0o600))
	if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("%v, want code preflight-refused", err)
	}
	must(t, w.host.Abandon(t.Context(), r))
	if data, err := os.ReadFile(mine); err != nil || string(data) != "mine" {
		t.Errorf("%q %v", data, err)
	}
	if left := w.left(); len(left) != 1 {
		t.Errorf("left %v", left)
	}
}

// TestWrongBytesOnTheDiskAreFound: a disk that does not hold what was written
// to it is no restore.
func TestWrongBytesOnTheDiskAreFound(t *testing.T) {
	for _, damage := range []func([]byte){
		func(b []byte) { b[4096*3+7] ^= 1 },             // most likely a hole or data
		func(b []byte) { clear(b[len(b)/2:]) },          // data that became zeros
		func(b []byte) { copy(b[1<<20:], b[:256<<10]) }, // the right bytes in the wrong place
	} {
		w := newTestWorld(t)
		r := w.backup(backstay.VaultTier)
		raw := r.Plan.Disks[0]
		var once sync.Once
		_, err := w.host.Stage(t.Context(), r, func(report mover.Report) {
			if report.Phase != "verify" {
				return
			}
			once.Do(func() {
				data, err := os.ReadFile(raw.Path)
				must(t, err)
				damage(data)
				must(t, os.WriteFile(raw.Path, data, 0o600))
			})
		})
		if !backstay.IsCode(err, backstay.CodeRestoreFailed) {
			t.Errorf("%v, want code restore-failed", err)
		}
		if left := w.left(); len(left) != 0 {
			t.Errorf("left %v", left)
		}
	}
}

// TestDisksStayWhenTheVMCannotBeCreated (row B1g), and the cause is libvirt's own.
func TestDisksStayWhenTheVMCannotBeCreated(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	w.hv.Hook = func(call string) error {
		if call == "define" {
			return errors.New("unsupported configuration: machine type")
		}
		return nil
	}
	err = define(t, w, r)
	if !backstay.IsCode(err, backstay.CodeCreateVMFailed) || !strings.Contains(err.Error(), "machine type") {
		t.Errorf("%v", err)
	}
	for _, d := range r.Plan.Disks {
		if !exists(d.Path) {
			t.Errorf("%s is gone", d.Path)
		}
	}
	w.hv.Hook = func(string) error { return nil }
	must(t, define(t, w, r)) // the cause is mended
}

// TestAVMOfSomebodyElseIsNotOurs: one that has the planned UUID but none of our
// files is neither taken for done nor removed.
func TestAVMOfSomebodyElseIsNotOurs(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	_, err = w.hv.Define(t.Context(), fake.XML("other", copyVM))
	must(t, err)
	if err := define(t, w, r); !backstay.IsCode(err, backstay.CodeCreateVMFailed) {
		t.Errorf("define over a foreign VM: %v", err)
	}
	must(t, w.host.Abandon(t.Context(), r))
	if _, err := w.hv.Domain(t.Context(), copyVM); err != nil {
		t.Errorf("the foreign VM: %v", err)
	}
	if left := w.left(); len(left) != 0 {
		t.Errorf("left %v", left)
	}
}

// TestADefineWhoseAnswerWasLostIsDone: the next call finds the VM and goes on.
func TestADefineWhoseAnswerWasLostIsDone(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	must(t, define(t, w, r))
	w.hv.Hook = func(call string) error {
		if call == "define" {
			return errors.New("it was defined twice")
		}
		return nil
	}
	must(t, define(t, w, r))
}

// TestASweepEndsRestoresThatWillNotGoOn: half-written disks go, complete ones
// stay, and those of a live job are left alone.
func TestASweepEndsRestoresThatWillNotGoOn(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	j, err := w.host.newJournal(r)
	must(t, err)
	j.add(r.Plan.Disks[0].Path)
	must(t, j.write())
	must(t, os.WriteFile(r.Plan.Disks[0].Path, []byte("half"), 0o600))
	_, err = w.host.Sweep(t.Context(), []backstay.JobID{r.Job})
	must(t, err)
	if left := w.left(); len(left) != 2 {
		t.Fatalf("a live job's files: %v", left)
	}
	report, err := w.host.Sweep(t.Context(), nil)
	must(t, err)
	if left := w.left(); len(left) != 0 || !slices.Contains(report.Removed, r.Plan.Disks[0].Path) {
		t.Errorf("left %v, reported %v", left, report.Removed)
	}
	_, err = w.host.Stage(t.Context(), r, nil)
	must(t, err)
	_, err = w.host.Sweep(t.Context(), nil)
	must(t, err)
	if left := w.left(); len(left) != 3 { // both disks, and the journal for an undo
		t.Errorf("a complete restore: %v", left)
	}
}

// TestCompanionsNeverReplaceAnothersFiles: firmware variables and TPM state that
// lie where those of the new VM would go stay, and stop the restore.
func TestCompanionsNeverReplaceAnothersFiles(t *testing.T) {
	dir := t.TempDir()
	j := &restoreJournal{path: filepath.Join(dir, "j.json"), Version: journalVersion}
	c := companions{
		files:  map[string][]byte{filepath.Join(dir, "nvram", "copy_VARS.fd"): []byte("vars")},
		folder: filepath.Join(dir, "swtpm", "uuid"),
		tpm:    map[string][]byte{filepath.Join(dir, "swtpm", "uuid", "tpm2", "tpm2-00.permall"): []byte("state")},
	}
	must(t, c.place(j))
	info, err := os.Stat(filepath.Join(c.folder, "tpm2", "tpm2-00.permall"))
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("state: %v %v", info, err)
	}
	if info, err := os.Stat(filepath.Join(c.folder, "tpm2")); err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("folder: %v %v", info, err)
	}
	must(t, c.place(j)) // again, by the same restore
	other := &restoreJournal{path: filepath.Join(dir, "other.json"), Version: journalVersion}
	if err := c.place(other); !errors.Is(err, hypervisor.ErrExists) {
		t.Errorf("over another VM's firmware variables: %v", err)
	}
	must(t, c.remove(other))
	if !exists(c.folder) {
		t.Error("another VM's TPM state was removed")
	}
	must(t, c.remove(j))
	if exists(c.folder) || len(j.Files) != 0 || len(j.Folders) != 0 {
		t.Errorf("left: %+v", j)
	}
}

// TestOfTwoRestoresToOneFileTheSecondIsRefused, also while the first has only
// said that it will make the file: the second would remove it when it fails.
func TestOfTwoRestoresToOneFileTheSecondIsRefused(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.VaultTier)
	first := r
	first.Job += "1"
	j, err := w.host.newJournal(first)
	must(t, err)
	for _, d := range r.Plan.Disks {
		j.add(d.Path)
	}
	must(t, j.write())
	if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodePreflight) {
		t.Errorf("staged: %v", err)
	}
	must(t, w.host.Abandon(t.Context(), first))
	staged, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	for _, path := range staged.Paths { // its owner deletes what was restored
		must(t, os.Remove(path))
	}
	r.Job += "2"
	_, err = w.host.Stage(t.Context(), r, nil)
	must(t, err)
}
