package host

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

const sessionID = backstay.FileSessionID("01JS0000000000000000000001")

// paperMachine is a small machine without one: it reads the disks that are plugged
// in, each of which is a volume with one file, "/disk".
type paperMachine struct {
	ended chan struct{}
	once  sync.Once

	mu     sync.Mutex
	disks  map[backstay.VolumeID]*nbd.Client // guarded by mu
	locked []wire.Lock
	takes  []backstay.VolumeKey // what opens those
	keys   []wire.UnlockRequest // guarded by mu
	reads  chan struct{}        // if set, a read says that it began, and waits
}

func (m *paperMachine) Attach(ctx context.Context, d guest.Disk) error {
	client, err := nbd.Dial(ctx, d.Socket, d.Export, nbd.Options{})
	if err != nil {
		return err
	}
	m.mu.Lock()
	defer m.mu.Unlock()
	name := backstay.VolumeID(d.Target)
	if d.Opens != "" {
		name = d.Opens + "-opened"
	}
	m.disks[name] = client
	return nil
}

func (m *paperMachine) Scan(context.Context) (wire.Scanned, error) {
	m.mu.Lock()
	defer m.mu.Unlock()
	var s wire.Scanned
	for id, client := range m.disks {
		v := backstay.Volume{ID: id, Kind: backstay.VolumeFiles, Size: client.Size()}
		for _, l := range m.locked {
			if l.Volume == id && m.disks[id+"-opened"] == nil && len(m.keys) == 0 {
				v.Kind, v.Keys = backstay.VolumeLocked, m.takes
			}
		}
		s.Volumes = append(s.Volumes, v)
	}
	s.Locks = m.locked
	return s, nil
}

func (m *paperMachine) Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
	m.mu.Lock()
	m.keys = append(m.keys, q)
	m.mu.Unlock()
	return m.Scan(ctx)
}

func (m *paperMachine) List(context.Context, wire.ListRequest) (wire.Folder, error) {
	return wire.Folder{Entries: []backstay.FileEntry{{Name: "disk", Type: backstay.TypeFile}}}, nil
}

func (m *paperMachine) Stat(context.Context, wire.PathRequest) (backstay.FileEntry, error) {
	return backstay.FileEntry{Name: "disk", Type: backstay.TypeFile}, nil
}

func (m *paperMachine) Read(ctx context.Context, q wire.ReadRequest) (io.ReadCloser, error) {
	if m.reads != nil {
		m.reads <- struct{}{}
		select {
		case <-ctx.Done():
			return nil, ctx.Err()
		case <-m.ended:
			return nil, backstay.Errorf(backstay.CodeMachineFailed, "the small machine failed").Becausef("its last words: oops")
		}
	}
	m.mu.Lock()
	client := m.disks[q.Volume]
	m.mu.Unlock()
	length := q.Length
	if length < 0 {
		length = client.Size() - q.Offset
	}
	data := make([]byte, length)
	if _, err := client.ReadAt(data, q.Offset); err != nil {
		return nil, backstay.Errorf(backstay.CodeVolumeUnread, "input/output error")
	}
	return io.NopCloser(bytes.NewReader(data)), nil
}

func (m *paperMachine) Take(ctx context.Context, q wire.TakeRequest) (io.ReadCloser, error) {
	return m.Read(ctx, wire.ReadRequest{PathRequest: wire.PathRequest{Volume: q.Volume}, Length: -1})
}

func (m *paperMachine) Inodes(context.Context, wire.InodesRequest) (io.ReadCloser, error) {
	return nil, errors.New("no inodes")
}

func (m *paperMachine) Walk(context.Context, wire.WalkRequest) (io.ReadCloser, error) {
	return io.NopCloser(strings.NewReader("")), nil
}
func (m *paperMachine) Hash(context.Context, wire.HashRequest) (wire.Hashes, error) {
	return wire.Hashes{}, nil
}
func (m *paperMachine) Ended() <-chan struct{} { return m.ended }
func (m *paperMachine) Close() error {
	m.once.Do(func() {
		close(m.ended)
		m.mu.Lock()
		defer m.mu.Unlock()
		for _, client := range m.disks {
			_ = client.Close()
		}
	})
	return nil
}

// withMachines gives the world's host small machines of paper, and returns the last
// that was started.
func (w *testWorld) withMachines() func() *paperMachine {
	var last *paperMachine
	w.host.machines = func(context.Context, guest.Need) (Machine, error) {
		last = &paperMachine{ended: make(chan struct{}), disks: map[backstay.VolumeID]*nbd.Client{}}
		return last, nil
	}
	w.t.Cleanup(w.host.CloseAll)
	return func() *paperMachine { return last }
}

func (w *testWorld) opening(tier backstay.Tier) mover.OpenFilesRequest {
	r := mover.OpenFilesRequest{Session: sessionID, Point: pointID, Tier: tier, User: "ann", Expires: w.host.now().Add(time.Hour)}
	if tier == backstay.VaultTier {
		r.Vault = &w.access
	}
	return r
}

// open opens a session of the world's point.
func (w *testWorld) open(tier backstay.Tier) mover.OpenedFiles {
	w.t.Helper()
	opened, err := w.host.OpenFiles(w.t.Context(), w.opening(tier), nil)
	must(w.t, err)
	return opened
}

// nothingLeft sees that nothing of any session is left.
func (w *testWorld) nothingLeft() {
	w.t.Helper()
	if folders, _ := filepath.Glob(w.path("s/*")); len(folders) > 0 {
		w.t.Errorf("left: %v", folders)
	}
	if ids, err := w.host.OpenSessions(w.t.Context()); err != nil || len(ids) > 0 {
		w.t.Errorf("open: %v, %v", ids, err)
	}
	record, err := w.host.tier.Record(w.t.Context(), pointID)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return
	}
	must(w.t, err)
	if users := w.users(); len(users) > 0 {
		w.t.Errorf("on the layers of %s: %+v", record.ID, users)
	}
}

func (w *testWorld) read(r mover.FileReadRequest) ([]byte, error) {
	var out bytes.Buffer
	r.Session = sessionID
	err := w.host.ReadFile(w.t.Context(), r, &out)
	return out.Bytes(), err
}

// TestASessionShowsThePointAsItWas: from either tier the machine, and whoever reads a
// disk raw, gets the bytes of the instant, whatever the guest writes meanwhile; and no
// byte of the point changes.
func TestASessionShowsThePointAsItWas(t *testing.T) {
	for _, tier := range []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier} {
		t.Run(string(tier), func(t *testing.T) {
			w := newTestWorld(t)
			w.withMachines()
			was := map[backstay.DiskTarget][]byte{"vda": w.content(sourceVM, "vda"), "vdb": w.content(sourceVM, "vdb")}
			w.backup(tier)
			must(t, w.hv.WriteGuest(sourceVM, "vda", 0, bytes.Repeat([]byte{7}, 1<<20)))
			opened := w.open(tier)
			if len(opened.Volumes) != 2 || len(opened.Disks) != 2 || (opened.Holds != "") != (tier == backstay.SnapshotTier) {
				t.Errorf("opened %+v", opened)
			}
			for target, want := range was {
				raw, err := w.read(mover.FileReadRequest{Disk: target, Length: -1})
				must(t, err)
				inside, err := w.read(mover.FileReadRequest{Volume: backstay.VolumeID(target), Path: "/disk", Length: -1})
				must(t, err)
				if !bytes.Equal(raw, want) || !bytes.Equal(inside, want) {
					t.Errorf("disk %s reads otherwise than it was", target)
				}
			}
			page, err := w.host.Folder(t.Context(), mover.FolderRequest{Session: sessionID, Volume: "vda", Path: "/"})
			if err != nil || len(page.Entries) != 1 {
				t.Errorf("%+v, %v", page, err)
			}
			must(t, w.host.CloseFiles(t.Context(), sessionID))
			w.nothingLeft()
		})
	}
}

// TestASessionEndsByItself when its time is over, with all that is under way in it,
// whoever else has forgotten it.
func TestASessionEndsByItself(t *testing.T) {
	w := newTestWorld(t)
	machine := w.withMachines()
	w.backup(backstay.SnapshotTier)
	r := w.opening(backstay.SnapshotTier)
	r.Expires = w.host.now().Add(300 * time.Millisecond)
	_, err := w.host.OpenFiles(t.Context(), r, nil)
	must(t, err)
	machine().reads = make(chan struct{}, 1)
	_, err = w.read(mover.FileReadRequest{Volume: "vda", Path: "/disk", Length: -1})
	if !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "it was open until") {
		t.Errorf("the read under way: %v", err)
	}
	s, err := w.host.files.find(sessionID)
	if err == nil {
		<-s.closed
		_, err = w.host.files.find(sessionID)
	}
	if !backstay.IsCode(err, backstay.CodeSessionEnded) {
		t.Errorf("the next call: %v", err)
	}
	w.nothingLeft()
	if _, err := w.host.OpenFiles(t.Context(), r, nil); err == nil {
		t.Error("a session was opened whose time is over")
	}
}

// TestAMachineThatDiesEndsItsSession, with its last words, and no other one.
func TestAMachineThatDiesEndsItsSession(t *testing.T) {
	w := newTestWorld(t)
	machine := w.withMachines()
	w.backup(backstay.VaultTier)
	w.open(backstay.VaultTier)
	first := machine()
	first.reads = make(chan struct{}, 1)
	other := w.opening(backstay.VaultTier)
	other.Session = "01JS0000000000000000000002"
	_, err := w.host.OpenFiles(t.Context(), other, nil)
	must(t, err)
	s, err := w.host.files.find(sessionID)
	must(t, err)
	go func() {
		<-first.reads
		_ = first.Close()
	}()
	_, err = w.read(mover.FileReadRequest{Volume: "vda", Path: "/disk", Length: -1})
	if !backstay.IsCode(err, backstay.CodeMachineFailed) || !strings.Contains(err.Error(), "oops") {
		t.Errorf("the read under way: %v", err)
	}
	<-s.closed
	if _, err = w.read(mover.FileReadRequest{Disk: "vda", Length: 1}); !backstay.IsCode(err, backstay.CodeMachineFailed) {
		t.Errorf("the next call: %v", err)
	}
	if ids, _ := w.host.OpenSessions(t.Context()); len(ids) != 1 || ids[0] != other.Session {
		t.Errorf("open: %v", ids)
	}
}

// TestWhatIsNeededEndsASession and what is not waits for it: the layers of another
// point are merged when the session has ended, or has to.
func TestWhatIsNeededEndsASession(t *testing.T) {
	take := func(w *testWorld, id backstay.PointID) {
		_, err := w.host.Prepare(t.Context(), mover.PrepareRequest{Job: testJob, Point: id, VM: sourceVM, Disks: []backstay.DiskTarget{"vda", "vdb"}})
		must(t, err)
		_, err = w.host.Take(t.Context(), mover.TakeRequest{Job: testJob, Point: id, VM: sourceVM, Consistency: backstay.CrashConsistent, Time: instant})
		must(t, err)
	}
	const next = backstay.PointID("01JP0000000000000000000002")
	two := func() *testWorld {
		w := newTestWorld(t)
		w.withMachines()
		take(w, pointID)
		take(w, next)
		r := w.opening(backstay.SnapshotTier)
		r.Point = next
		_, err := w.host.OpenFiles(t.Context(), r, nil)
		must(t, err)
		return w
	}
	ended := func(w *testWorld, why string) {
		t.Helper()
		if _, err := w.read(mover.FileReadRequest{Disk: "vda", Length: 1}); !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), why) {
			t.Errorf("the session: %v, want %q", err, why)
		}
		w.nothingLeft()
	}

	w := two()
	err := w.host.DropPoint(t.Context(), pointID, nil)
	if !backstay.IsCode(err, backstay.CodeLayerInUse) || !strings.Contains(err.Error(), "item-level restore session "+string(sessionID)+" of ann, open until") {
		t.Errorf("a point below is dropped: %v", err)
	}
	if _, err := w.read(mover.FileReadRequest{Disk: "vda", Length: 1}); err != nil {
		t.Errorf("the session: %v", err)
	}
	must(t, mover.DropNeeded(t.Context(), w.host, mover.Needed{Point: pointID, Why: "its room is needed"}, nil))
	ended(w, "its room is needed")
	r := w.opening(backstay.SnapshotTier)
	r.Point, r.Session = next, "01JS0000000000000000000002"
	if _, err := w.host.OpenFiles(t.Context(), r, nil); err != nil {
		t.Errorf("a session on layers that are merged by now: %v", err)
	}

	w = two()
	must(t, w.host.DropPoint(t.Context(), next, nil))
	ended(w, "its point leaves the snapshot tier")

	w = two()
	_, err = w.host.Release(t.Context(), sourceVM, nil)
	must(t, err)
	ended(w, "the protection of its VM ends")

	w = two()
	if got, err := w.host.EndSessionsOn(t.Context(), pointID, "room"); err != nil || len(got) != 1 {
		t.Fatalf("%v, %v", got, err)
	}
	if _, err := w.host.OpenFiles(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeLayerInUse) {
		t.Errorf("a session slipped in between: %v", err)
	}
	now := w.host.now()
	w.host.now = func() time.Time { return now.Add(2 * barred) }
	if _, err := w.host.OpenFiles(t.Context(), r, nil); err != nil {
		t.Errorf("a while later: %v", err)
	}
}

// TestAHostTakesSoManySessions and says so to the next one; a raw one needs no machine
// and has room of its own.
func TestAHostTakesSoManySessions(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.VaultTier)
	for i := range MaxSessions + 1 {
		r := w.opening(backstay.VaultTier)
		r.Session = backstay.FileSessionID(fmt.Sprintf("01JS%d", i))
		_, err := w.host.OpenFiles(t.Context(), r, nil)
		if full := i == MaxSessions; backstay.IsCode(err, backstay.CodeSessionLimit) != full || !full && err != nil {
			t.Errorf("session %d: %v", i, err)
		}
	}
	raw := w.opening(backstay.VaultTier)
	raw.Raw = true
	_, err := w.host.OpenFiles(t.Context(), raw, nil)
	must(t, err)
	must(t, w.host.CloseFiles(t.Context(), "01JS0"))
	again := w.opening(backstay.VaultTier)
	again.Session = "01JS9"
	_, err = w.host.OpenFiles(t.Context(), again, nil)
	must(t, err)
}

// TestAnOpeningThatFailsLeavesNothing wherever it fails, or is cancelled.
func TestAnOpeningThatFailsLeavesNothing(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.SnapshotTier)
	broken := errors.New("broken")
	w.host.machines = func(context.Context, guest.Need) (Machine, error) { return nil, broken }
	if _, err := w.host.OpenFiles(t.Context(), w.opening(backstay.SnapshotTier), nil); !errors.Is(err, broken) {
		t.Error(err)
	}
	w.nothingLeft()
	w.host.machines = nil
	if _, err := w.host.OpenFiles(t.Context(), w.opening(backstay.SnapshotTier), nil); !backstay.IsCode(err, backstay.CodeUnfit) {
		t.Error(err)
	}
	w.nothingLeft()
	ctx, cancel := context.WithCancel(t.Context())
	w.host.machines = func(ctx context.Context, _ guest.Need) (Machine, error) {
		cancel()
		<-ctx.Done()
		return nil, ctx.Err()
	}
	if _, err := w.host.OpenFiles(ctx, w.opening(backstay.SnapshotTier), nil); !errors.Is(err, context.Canceled) {
		t.Error(err)
	}
	w.nothingLeft()
	r := w.opening(backstay.SnapshotTier)
	r.Disks = []backstay.DiskTarget{"vda", "vdz"}
	if _, err := w.host.OpenFiles(t.Context(), r, nil); !backstay.IsCode(err, backstay.CodeDiskUnknown) || !strings.Contains(err.Error(), "vdz") {
		t.Error(err)
	}
	w.nothingLeft()
}

// TestAMoverThatWasKilledLeavesNoSession: its folders and its entries beside the disks
// go before anybody is answered, and those of one that lives stay.
func TestAMoverThatWasKilledLeavesNoSession(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.SnapshotTier)
	w.open(backstay.SnapshotTier)
	// What a killed mover leaves: a folder that nobody has locked.
	dead := w.path("s/files-dead")
	must(t, os.MkdirAll(dead, 0o700))
	must(t, os.WriteFile(filepath.Join(dead, "lock"), nil, 0o600))
	must(t, w.host.SweepSessions())
	if _, err := os.Stat(dead); err == nil {
		t.Error("the folder of a killed mover is left")
	}
	if _, err := w.read(mover.FileReadRequest{Volume: "vda", Path: "/disk", Length: 1}); err != nil {
		t.Errorf("a session that lives: %v", err)
	}
	// The process ends: another one has the same folders, and no session.
	again := newHostOf(t, w)
	if len(w.users()) == 0 {
		t.Fatal("nothing stood on the layers")
	}
	must(t, again.SweepSessions())
	if users := w.users(); len(users) > 0 {
		t.Errorf("left on the layers: %+v", users)
	}
}

// newHostOf is the host of a world as its next process has it.
func newHostOf(t *testing.T, w *testWorld) *Host {
	t.Helper()
	h, err := New(Options{
		Hypervisor: seenHost{w.hv, w}, Images: w.hv, Keyring: w.host.keys, StateDir: w.path("state"), SocketDir: w.path("s"),
		OpenVault: w.openVault, Name: "h1",
	})
	must(t, err)
	return h
}

// TestADiskThatCannotBeReadIsSaidToBe: the machine knows an error of some disk alone.
func TestADiskThatCannotBeReadIsSaidToBe(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.VaultTier)
	w.open(backstay.VaultTier)
	s, err := w.host.files.find(sessionID)
	must(t, err)
	s.disks["vda"].use.Lock()
	s.disks["vda"].Image = damagedImage{s.disks["vda"].Image}
	s.disks["vda"].use.Unlock()
	_, err = w.read(mover.FileReadRequest{Volume: "vda", Path: "/disk", Length: -1})
	if !backstay.IsCode(err, backstay.CodeDamaged) {
		t.Errorf("%v", err)
	}
	if _, err = w.read(mover.FileReadRequest{Volume: "vdb", Path: "/disk", Length: -1}); err != nil {
		t.Errorf("the other disk: %v", err)
	}
}

type damagedImage struct{ tier.Image }

func (damagedImage) ReadAt([]byte, int64) (int, error) {
	return 0, backstay.Errorf(backstay.CodeDamaged, "an object is damaged in every copy")
}

// TestAPausedReaderDelaysNobody: a session that must end does not wait for whoever takes
// its bytes.
func TestAPausedReaderDelaysNobody(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.SnapshotTier)
	w.open(backstay.SnapshotTier)
	paused, on := make(chan struct{}, 2), make(chan struct{})
	var reading sync.WaitGroup
	for _, r := range []mover.FileReadRequest{{Disk: "vda", Length: -1}, {Volume: "vda", Path: "/disk", Length: -1}} {
		r.Session = sessionID
		reading.Go(func() {
			err := w.host.ReadFile(context.Background(), r, writerFunc(func(p []byte) (int, error) {
				select {
				case paused <- struct{}{}:
				default:
				}
				<-on
				return len(p), nil
			}))
			if err != nil && !backstay.IsCode(err, backstay.CodeSessionEnded) {
				t.Errorf("the reader: %v", err)
			}
		})
	}
	<-paused
	<-paused
	must(t, w.host.DropPoint(t.Context(), pointID, nil))
	close(on)
	reading.Wait()
	w.nothingLeft()
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

// TestASessionThatIsBeingOpenedGivesWay too, and its opener is told why.
func TestASessionThatIsBeingOpenedGivesWay(t *testing.T) {
	w := newTestWorld(t)
	w.withMachines()
	w.backup(backstay.SnapshotTier)
	starting := make(chan struct{})
	w.host.machines = func(ctx context.Context, _ guest.Need) (Machine, error) {
		close(starting)
		<-ctx.Done()
		return nil, ctx.Err()
	}
	opened := make(chan error, 1)
	go func() {
		_, err := w.host.OpenFiles(context.Background(), w.opening(backstay.SnapshotTier), nil)
		opened <- err
	}()
	<-starting
	must(t, mover.DropNeeded(t.Context(), w.host, mover.Needed{Point: pointID, Why: "its room is needed"}, nil))
	if err := <-opened; !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "leaves the snapshot tier") {
		t.Errorf("the opener: %v", err)
	}
	w.nothingLeft()
}
