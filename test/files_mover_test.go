//go:build integration

package test

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/backstay/backstay/internal/hypervisor/libvirt"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/rpc"
	"github.com/backstay/backstay/internal/sandbox"
	"github.com/backstay/backstay/internal/tier/vault"
)

const (
	filesVM     = "web01"
	filesPoint  = backstay.PointID("01JP0000000000000000000001")
	filesNext   = backstay.PointID("01JP0000000000000000000002")
	filesJob    = backstay.JobID("01JB0000000000000000000001")
	ownKey      = "the firmware hands this one out"
	broughtKey  = "its user knows this one"
	openTimeout = 5 * time.Minute
)

// filesWorld is a mover in a process of its own, with a VM of three disks: a system, a
// LUKS volume whose key the VM's definition holds, and one whose key it does not.
type filesWorld struct {
	*testing.T
	ctx    context.Context
	world  *sandbox.World
	on     *sandbox.Host
	mover  *rpc.Client
	vm     backstay.VMID
	vault  mover.VaultAccess
	secret []byte // the content of /secret in both volumes
}

func (w *filesWorld) must(err error) {
	w.Helper()
	if err != nil {
		w.Fatal(err)
	}
}

func (w *filesWorld) tool(name string, args ...string) {
	w.Helper()
	if out, err := exec.CommandContext(w.ctx, name, args...).CombinedOutput(); err != nil {
		w.Fatalf("%s: %v: %s", name, err, out)
	}
}

// TestFilesComeOutOfBothTiersAndNothingOutlivesTheMover: volumes are found, opened with
// what the point holds or its user brings, and read; a session gives way to a merge
// that is needed; and a mover that is killed leaves nothing.
func TestFilesComeOutOfBothTiersAndNothingOutlivesTheMover(t *testing.T) {
	ctx, cancel := context.WithTimeout(context.Background(), openTimeout)
	t.Cleanup(cancel)
	w := &filesWorld{T: t, ctx: ctx}
	w.up()
	w.take(filesPoint)
	_, err := w.mover.Transfer(ctx, mover.TransferRequest{Job: filesJob, Point: filesPoint, Vault: w.vault}, nil)
	w.must(err)

	opened := w.open("01JS0000000000000000000001", backstay.SnapshotTier)
	w.look("01JS0000000000000000000001", opened)
	w.take(filesNext)
	w.must(mover.DropNeeded(ctx, w.mover, mover.Needed{Point: filesPoint, Why: "its room is needed"}, nil))
	_, err = w.mover.Folder(ctx, mover.FolderRequest{Session: "01JS0000000000000000000001", Volume: "vda", Path: "/"})
	if !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("the session that had to give way: %v", err)
	}

	w.must(w.world.CountGets())
	opened = w.open("01JS0000000000000000000002", backstay.VaultTier)
	w.look("01JS0000000000000000000002", opened)
	requests, size, err := w.world.Gets()
	w.must(err)
	t.Logf("two volumes unlocked, folders listed, files read: %d requests, %.1f MiB of the vault", requests, float64(size)/(1<<20))
	if size > 64<<20 { // two headers of LUKS among it
		t.Errorf("%d bytes were read from the vault", size)
	}
	w.killed("01JS0000000000000000000002")
}

// up makes the world.
func (w *filesWorld) up() {
	var err error
	w.world, err = sandbox.Up(w.ctx, sandbox.Options{NoRegion: true, Binary: []string{filepath.Join(binaries, "sandbox"), "backstay"}})
	w.must(err)
	w.Cleanup(func() { w.must(w.world.Down(context.Background())) })
	w.on, err = w.world.Host("")
	w.must(err)
	blank := sandbox.DiskSpec{Raw: true, Blank: true, Size: 64 << 20}
	w.must(w.world.AddVM(w.ctx, sandbox.VMSpec{Name: filesVM, Off: true, Disks: []sandbox.DiskSpec{{}, blank, blank}}))
	w.secret = make([]byte, 1<<20)
	_, _ = rand.Read(w.secret)
	w.sealed("vdb", ownKey)
	w.sealed("vdc", broughtKey)
	w.handKey()
	w.makeVault()
	w.must(w.on.StartMover(w.ctx))
	w.mover = rpc.Dial(w.on.MoverAddress())
}

// sealed makes a disk a LUKS volume with a file in it.
func (w *filesWorld) sealed(target, key string) {
	dir := w.TempDir()
	tree, plain, keyFile := filepath.Join(dir, "tree"), filepath.Join(dir, "plain"), filepath.Join(dir, "key")
	w.must(errors.Join(os.Mkdir(tree, 0o755), os.WriteFile(filepath.Join(tree, "secret"), w.secret, 0o600), os.WriteFile(keyFile, []byte(key), 0o600)))
	w.tool("mke2fs", "-q", "-t", "ext4", "-d", tree, plain, "32M")
	sealed := w.on.Outside(filepath.Join(sandbox.Images, filesVM+"-"+target+".img"))
	// On a busy machine its measure of the processor's time fails now and then.
	var out []byte
	err := errors.New("not tried")
	for n := 0; err != nil && n < 50; n++ {
		out, err = exec.CommandContext(w.ctx, "qemu-img", "convert", "-f", "raw", "-O", "luks", "--object", "secret,id=key,file="+keyFile, "-o", "key-secret=key,iter-time=200", plain, sealed).CombinedOutput()
	}
	if err != nil {
		w.Fatalf("make a LUKS volume: %v: %s", err, out)
	}
}

// handKey lets the firmware hand a key to the guest.
func (w *filesWorld) handKey() {
	lv, err := libvirt.Open(w.ctx, w.on.URI(), libvirt.Options{})
	w.must(err)
	defer func() { _ = lv.Close() }()
	xml, err := w.on.XML(w.ctx, filesVM)
	w.must(err)
	w.must(w.on.Undefine(w.ctx, filesVM))
	w.vm, err = lv.Define(w.ctx, strings.Replace(xml, "<devices>", "<sysinfo type='fwcfg'><entry name='opt/key'>"+ownKey+"</entry></sysinfo><devices>", 1))
	w.must(err)
}

func (w *filesWorld) makeVault() {
	var copies []blob.Store
	w.vault = mover.VaultAccess{Name: "main", ID: "7b1a5f0e-5f0a-4c56-9a4e-1a8f3c1d2e3f", Redundancy: backstay.LRS}
	for i := range 3 {
		dir := filepath.Join(w.world.Dir, "unit"+strconv.Itoa(i))
		w.must(os.Mkdir(dir, 0o700))
		w.vault.Units = append(w.vault.Units, "file://"+dir)
		w.must(unit.Init(w.ctx, "file://"+dir))
		s, err := unit.Open(w.ctx, "file://"+dir)
		w.must(err)
		copies = append(copies, s)
	}
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	w.vault.Key, err = vault.Create(w.ctx, replica.New(copies...), vault.CreateOptions{
		ID: w.vault.ID, Name: "main", Redundancy: backstay.LRS, Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: time.Now().UTC(),
	})
	w.must(err)
}

// take takes a point of the VM.
func (w *filesWorld) take(id backstay.PointID) {
	w.Helper()
	_, err := w.mover.Prepare(w.ctx, mover.PrepareRequest{Job: filesJob, Point: id, VM: w.vm, Disks: []backstay.DiskTarget{"vda", "vdb", "vdc"}})
	w.must(err)
	_, err = w.mover.Take(w.ctx, mover.TakeRequest{Job: filesJob, Point: id, VM: w.vm, Consistency: backstay.CrashConsistent, Time: time.Now().UTC()})
	w.must(err)
}

func (w *filesWorld) open(id backstay.FileSessionID, tier backstay.Tier) mover.OpenedFiles {
	w.Helper()
	began := time.Now()
	opened, err := w.mover.OpenFiles(w.ctx, mover.OpenFilesRequest{
		Session: id, Point: filesPoint, Tier: tier, Vault: &w.vault, User: "ann", Expires: time.Now().Add(time.Hour),
	}, nil)
	w.must(err)
	w.Logf("opened in the %s tier after %.1f s", tier, time.Since(began).Seconds())
	return opened
}

// look looks into all volumes.
func (w *filesWorld) look(id backstay.FileSessionID, opened mover.OpenedFiles) {
	w.Helper()
	of := func(volumes []backstay.Volume, target backstay.DiskTarget) (found backstay.Volume) {
		for _, v := range volumes {
			if len(v.Disks) == 1 && v.Disks[0] == target && (v.Kind == backstay.VolumeFiles || v.Kind == backstay.VolumeLocked) {
				found = v
			}
		}
		return found
	}
	if v := of(opened.Volumes, "vdb"); v.Kind != backstay.VolumeFiles {
		w.Errorf("the volume whose key the point holds is not open: %+v", opened.Volumes)
	}
	locked := of(opened.Volumes, "vdc")
	if locked.Kind != backstay.VolumeLocked {
		w.Fatalf("the volume whose key nobody brought: %+v", opened.Volumes)
	}
	unlock := mover.UnlockRequest{Session: id, Volume: locked.ID, Kind: backstay.KeyPassphrase, Key: backstay.NewSecret([]byte("wrong"))}
	if _, err := w.mover.UnlockVolume(w.ctx, unlock); !backstay.IsCode(err, backstay.CodeVolumeKey) {
		w.Errorf("a wrong key: %v", err)
	}
	unlock.Key = backstay.NewSecret([]byte(broughtKey))
	volumes, err := w.mover.UnlockVolume(w.ctx, unlock)
	w.must(err)
	for _, target := range []backstay.DiskTarget{"vdb", "vdc"} {
		var content bytes.Buffer
		err := w.mover.ReadFile(w.ctx, mover.FileReadRequest{Session: id, Volume: of(volumes, target).ID, Path: "/secret", Length: -1}, &content)
		if err != nil || !bytes.Equal(content.Bytes(), w.secret) {
			w.Errorf("the file on %s: %d bytes, %v", target, content.Len(), err)
		}
	}
	page, err := w.mover.Folder(w.ctx, mover.FolderRequest{Session: id, Volume: of(volumes, "vda").ID, Path: "/"})
	if err != nil || len(page.Entries) < 3 {
		w.Errorf("the system's folder: %+v, %v", page, err)
	}
}

// killed kills the mover while it is read from, and sees that nothing of the session
// is left: no process at once, nothing at all when the next one answers.
func (w *filesWorld) killed(id backstay.FileSessionID) {
	raw := mover.OpenFilesRequest{Session: "01JS0000000000000000000003", Point: filesNext, Tier: backstay.SnapshotTier, Raw: true, User: "ann", Expires: time.Now().Add(time.Hour)}
	_, err := w.mover.OpenFiles(w.ctx, raw, nil)
	w.must(err)
	children := below(w.on.MoverPID())
	if len(children) < 3 {
		w.Fatalf("the mover has the processes %v", children)
	}
	first := true
	read := mover.FileReadRequest{Session: raw.Session, Disk: "vda", Length: -1}
	err = w.mover.ReadFile(w.ctx, read, writerOf(func(p []byte) (int, error) {
		if first {
			w.must(w.on.KillMover(w.ctx))
			first = false
		}
		return len(p), nil
	}))
	if !backstay.IsCode(err, backstay.CodeHostAway) {
		w.Errorf("a read whose mover was killed: %v", err)
	}
	for _, pid := range children {
		for n := 0; ; n++ {
			if stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid)); err != nil || strings.Contains(string(stat), ") Z ") {
				break
			}
			if n == 1000 {
				cmdline, _ := os.ReadFile(fmt.Sprintf("/proc/%d/cmdline", pid))
				w.Errorf("process %d outlives its mover: %q", pid, cmdline)
				break
			}
			time.Sleep(10 * time.Millisecond)
		}
	}
	w.must(w.on.StartMover(w.ctx))
	if ids, err := w.mover.OpenSessions(w.ctx); err != nil || len(ids) > 0 {
		w.Errorf("open after a new start: %v, %v", ids, err)
	}
	folder := "/run/backstay/files-" + strings.ToLower(string(id))
	if out, err := w.on.Command(w.ctx, "ls", folder).CombinedOutput(); err == nil {
		w.Errorf("the folder of a session is left: %s", out)
	}
	if err := w.mover.DropPoint(w.ctx, filesNext, nil); err != nil {
		w.Errorf("a layer is still held: %v", err)
	}
}

type writerOf func([]byte) (int, error)

func (f writerOf) Write(p []byte) (int, error) { return f(p) }

// below lists the processes that another one started, and those that they did.
func below(pid int) (all []int) {
	tasks, _ := filepath.Glob(fmt.Sprintf("/proc/%d/task/*/children", pid))
	for _, task := range tasks {
		text, err := os.ReadFile(task)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		for _, field := range strings.Fields(string(text)) {
			child, err := strconv.Atoi(field)
			if err == nil {
				all = append(append(all, child), below(child)...)
			}
		}
	}
	return all
}
