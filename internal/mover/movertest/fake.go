package movertest

import (
	"bytes"
	"context"
	"crypto/sha256"
	"encoding/hex"
	"fmt"
	"slices"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Fake is a mover without a host: its VM, points and vault are in memory. It
// passes the suite, so what carries a mover can be tried on it.
type Fake struct {
	// Machine is its one VM; Key is the key that opens its vault.
	Machine backstay.VM
	Key     []byte
	// Hook, if set, is called at the start of each method with the method's
	// name; an error that it returns is the method's.
	Hook func(ctx context.Context, method string) error
	// Reports is how many reports each phase of a long call makes; 0 means 4.
	Reports int
	// Stalled says that the VM stands still since a disk failed it.
	Stalled bool
	// States are the secrets that its points need.
	States []mover.SecretState
	// Saved says that the VM's memory is saved, and LibvirtSnapshots name libvirt's own.
	Saved            bool
	LibvirtSnapshots []string

	// Volumes are those of each of its points.
	Volumes []FakeVolume
	// FailProbe is a probe of drills, as it is typed, that does not pass.
	FailProbe string
	// Put is the content of each PutFiles so far.
	Put [][]byte

	mu     sync.Mutex
	points map[backstay.PointID]*fakePoint
	staged map[string]backstay.JobID
	vms    map[backstay.VMID]string

	indexed       []backstay.PointID // in order
	drills        map[backstay.JobID]mover.DrillNetwork
	replaces      map[backstay.JobID]*fakeReplace
	sessions      map[backstay.FileSessionID]*fakeSession
	endedSessions map[backstay.FileSessionID]string // the reasons
	// templates are those of the folders in which there are disks.
	templates map[string]backstay.RestorePlan
}

type fakePoint struct {
	taken             mover.Taken
	prepared          mover.Prepared
	snapshot, inVault bool
	held              *mover.Held
	pinned            bool
}

var _ mover.Mover = (*Fake)(nil)

// NewFake returns a mover with one VM of two disks, and a vault with this key.
func NewFake(key []byte) *Fake {
	const vm = "5d3f6a60-0000-4000-8000-000000000001"
	return &Fake{
		Key: key,
		Machine: backstay.VM{
			ID: vm, Name: "web01", State: backstay.VMRunning, Firmware: backstay.BIOS,
			Disks: []backstay.Disk{
				{Target: "vda", Device: "disk", Source: "/fake/vda.qcow2", Format: "qcow2", Size: 1 << 20},
				{Target: "vdb", Device: "disk", Source: "/fake/vdb.raw", Format: "raw", Size: 2 << 20},
			},
		},
		points: map[backstay.PointID]*fakePoint{}, staged: map[string]backstay.JobID{},
		vms:     map[backstay.VMID]string{vm: "web01"},
		Volumes: fakeVolumes(), sessions: map[backstay.FileSessionID]*fakeSession{}, endedSessions: map[backstay.FileSessionID]string{},
	}
}

func (f *Fake) enter(ctx context.Context, method string) error {
	if f.Hook != nil {
		if err := f.Hook(ctx, method); err != nil {
			return err
		}
	}
	return ctx.Err()
}

// Facts is mover.Inventory's.
func (f *Fake) Facts(ctx context.Context) (backstay.HostFacts, error) {
	return backstay.HostFacts{Networks: []string{"default"}}, f.enter(ctx, "Facts")
}

// VMs is mover.Inventory's.
func (f *Fake) VMs(ctx context.Context) ([]backstay.VM, error) {
	f.mu.Lock()
	vm := f.Machine
	vm.Disks = slices.Clone(vm.Disks)
	f.mu.Unlock()
	return []backstay.VM{vm}, f.enter(ctx, "VMs")
}

// Watch is mover.Inventory's: it reports once and waits for ctx.
func (f *Fake) Watch(ctx context.Context, fn func(backstay.VMID)) error {
	if err := f.enter(ctx, "Watch"); err != nil {
		return err
	}
	fn("")
	fn(f.Machine.ID)
	<-ctx.Done()
	return ctx.Err()
}

// Paths is mover.Inventory's.
func (f *Fake) Paths(ctx context.Context, paths []string) ([]mover.PathInfo, error) {
	if err := f.enter(ctx, "Paths"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var infos []mover.PathInfo
	for _, p := range paths {
		info := mover.PathInfo{Path: p, Folder: true, Available: 1 << 40, Device: "memory"}
		_, info.Exists = f.staged[p]
		for _, d := range f.Machine.Disks {
			if d.Source == p {
				info.Exists, info.UsedBy = true, []string{f.Machine.Name}
			}
		}
		infos = append(infos, info)
	}
	return infos, nil
}

// Prepare is mover.Snapshots'.
func (f *Fake) Prepare(ctx context.Context, r mover.PrepareRequest) (mover.Prepared, error) {
	if err := f.enter(ctx, "Prepare"); err != nil {
		return mover.Prepared{}, err
	}
	if r.VM != f.Machine.ID {
		return mover.Prepared{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", r.VM)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if p := f.points[r.Point]; p != nil {
		return p.prepared, nil
	}
	prepared := mover.Prepared{Agent: backstay.AgentConnected}
	for _, d := range f.Machine.Disks {
		if slices.Contains(r.Disks, d.Target) {
			prepared.Disks = append(prepared.Disks, mover.PreparedDisk{
				Target: d.Target, Source: d.Source, Format: d.Format, Size: d.Size, Overlay: d.Source + "." + string(r.Point),
			})
		}
	}
	f.points[r.Point] = &fakePoint{prepared: prepared}
	return prepared, nil
}

// Take is mover.Snapshots'.
func (f *Fake) Take(ctx context.Context, r mover.TakeRequest) (mover.Taken, error) {
	if err := f.enter(ctx, "Take"); err != nil {
		return mover.Taken{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[r.Point]
	if p == nil {
		return mover.Taken{}, backstay.Errorf(backstay.CodeUnknownPoint, "point %s was not prepared", r.Point)
	}
	if !p.snapshot {
		p.snapshot = true
		p.taken = mover.Taken{Point: r.Point, Time: r.Time, Consistency: r.Consistency, Shape: f.Machine}
		for _, d := range p.prepared.Disks {
			p.taken.Disks = append(p.taken.Disks, backstay.PointDisk{Target: d.Target, Size: d.Size, Format: d.Format, Included: true})
		}
	}
	return p.taken, nil
}

// Settle is mover.Snapshots'.
func (f *Fake) Settle(ctx context.Context, _ backstay.VMID, id backstay.PointID) (mover.Taken, bool, error) {
	if err := f.enter(ctx, "Settle"); err != nil {
		return mover.Taken{}, false, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[id]
	if p != nil {
		p.held = nil
	}
	if p == nil || !p.snapshot {
		delete(f.points, id)
		return mover.Taken{}, false, nil
	}
	return p.taken, true, nil
}

// Points is mover.Snapshots'.
func (f *Fake) Points(ctx context.Context) ([]mover.Taken, error) {
	if err := f.enter(ctx, "Points"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var all []mover.Taken
	for _, p := range f.points {
		if p.snapshot {
			all = append(all, p.taken)
		}
	}
	return all, nil
}

// Lost is mover.Standings': nothing is ever lost in memory.
func (f *Fake) Lost(ctx context.Context, places []mover.PointPlace) (map[backstay.PointID]string, error) {
	if err := f.enter(ctx, "Lost"); err != nil {
		return nil, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	lost := map[backstay.PointID]string{}
	for _, place := range places {
		if p := f.points[place.Point]; p == nil || !p.snapshot {
			lost[place.Point] = "there is no record of it"
		}
	}
	return lost, nil
}

// Ready is mover.Holds'.
func (f *Fake) Ready(ctx context.Context, r mover.HoldRequest) error {
	if err := f.enter(ctx, "Ready"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.points[r.Point] == nil || r.VM != f.Machine.ID {
		return backstay.Errorf(backstay.CodeSnapshotFailed, "point %s was not prepared", r.Point)
	}
	return nil
}

// Hold is mover.Holds'.
func (f *Fake) Hold(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	if err := f.enter(ctx, "Hold"); err != nil {
		return mover.Held{}, err
	}
	if err := f.Ready(ctx, r); err != nil {
		return mover.Held{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	held := mover.Held{Consistency: r.Consistency, Reason: "as wished"}
	f.points[r.Point].held = &held
	return held, nil
}

// LetGo is mover.Holds'.
func (f *Fake) LetGo(ctx context.Context, r mover.HoldRequest) (mover.Held, error) {
	if err := f.enter(ctx, "LetGo"); err != nil {
		return mover.Held{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[r.Point]
	if p == nil {
		return mover.Held{}, nil
	}
	held := mover.Held{Consistency: p.taken.Consistency, Reason: p.taken.Reason}
	if p.held != nil {
		held, p.held = *p.held, nil
	}
	return held, nil
}

// Held tells whether the VM is held for a point.
func (f *Fake) Held(id backstay.PointID) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[id]
	return p != nil && p.held != nil
}

// point returns a point that the tier has.
func (f *Fake) point(id backstay.PointID, in backstay.Tier) (*fakePoint, error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	p := f.points[id]
	if p == nil || (in == backstay.SnapshotTier && !p.snapshot) || (in == backstay.VaultTier && !p.inVault) {
		return nil, backstay.Errorf(backstay.CodeUnknownPoint, "there is no point %s in the %s tier", id, in)
	}
	return p, nil
}

// DropPoint is mover.Snapshots'.
func (f *Fake) DropPoint(ctx context.Context, id backstay.PointID, progress mover.Progress) error {
	if err := f.enter(ctx, "DropPoint"); err != nil {
		return err
	}
	p, err := f.point(id, backstay.SnapshotTier)
	if err != nil {
		return err
	}
	return f.end(ctx, p, progress)
}

// end takes a point out of the snapshot tier, unless it is pinned.
func (f *Fake) end(ctx context.Context, p *fakePoint, progress mover.Progress) error {
	f.mu.Lock()
	pinned := p.pinned
	if !pinned {
		for id, s := range f.sessions {
			if s.open.Point == p.taken.Point && s.open.Tier == backstay.SnapshotTier {
				f.endSession(id, "its point leaves the snapshot tier")
			}
		}
	}
	f.mu.Unlock()
	if pinned {
		return backstay.Errorf(backstay.CodeLayerInUse, "point %s is pinned", p.taken.Point)
	}
	if err := f.report(ctx, "merge", progress); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.snapshot = false
	return nil
}

// Sweep is mover.Snapshots'.
func (f *Fake) Sweep(ctx context.Context, _ []backstay.JobID) (mover.SweepReport, error) {
	return mover.SweepReport{}, f.enter(ctx, "Sweep")
}

// Release is mover.Snapshots'.
func (f *Fake) Release(ctx context.Context, vm backstay.VMID, progress mover.Progress) (mover.Released, error) {
	if err := f.enter(ctx, "Release"); err != nil {
		return mover.Released{}, err
	}
	if vm != f.Machine.ID {
		return mover.Released{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", vm)
	}
	return mover.Released{}, f.report(ctx, "merge", progress)
}

// Pin is mover.Keeps'.
func (f *Fake) Pin(ctx context.Context, id backstay.PointID, pinned bool) error {
	if err := f.enter(ctx, "Pin"); err != nil {
		return err
	}
	p, err := f.point(id, backstay.SnapshotTier)
	if err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.pinned = pinned
	return nil
}

// KeepMap is mover.Keeps'.
func (f *Fake) KeepMap(ctx context.Context, id backstay.PointID, progress mover.Progress) error {
	if err := f.enter(ctx, "KeepMap"); err != nil {
		return err
	}
	p, err := f.point(id, backstay.SnapshotTier)
	if err != nil {
		return nil
	}
	return f.end(ctx, p, progress)
}

func (f *Fake) report(ctx context.Context, phase string, progress mover.Progress) error {
	n := f.Reports
	if n == 0 {
		n = 4
	}
	for i := range n {
		if err := ctx.Err(); err != nil {
			return err
		}
		if progress != nil {
			progress(mover.Report{Phase: phase, Done: int64(i + 1), Total: int64(n), Pack: ""})
		}
	}
	return nil
}

func (f *Fake) opens(v *mover.VaultAccess) error {
	if v == nil || !bytes.Equal(v.Key.Reveal(), f.Key) {
		return backstay.Errorf(backstay.CodeVaultKey, "the key does not open the vault")
	}
	return nil
}

// Transfer is mover.Transfers'.
func (f *Fake) Transfer(ctx context.Context, r mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	if err := f.enter(ctx, "Transfer"); err != nil {
		return mover.Transferred{}, err
	}
	if err := f.opens(&r.Vault); err != nil {
		return mover.Transferred{}, err
	}
	p, err := f.point(r.Point, backstay.SnapshotTier)
	if err != nil {
		return mover.Transferred{}, err
	}
	for _, phase := range []string{"transfer", "validate"} {
		if err := f.report(ctx, phase, progress); err != nil {
			return mover.Transferred{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	p.inVault = true
	return mover.Transferred{Disks: p.taken.Disks, Stats: backstay.JobStats{BytesRead: 3 << 20}}, nil
}

// Verify is mover.Transfers'.
func (f *Fake) Verify(ctx context.Context, r mover.VerifyRequest, progress mover.Progress) (mover.Verified, error) {
	if err := f.enter(ctx, "Verify"); err != nil {
		return mover.Verified{}, err
	}
	if r.Tier == backstay.VaultTier {
		if err := f.opens(r.Vault); err != nil {
			return mover.Verified{}, err
		}
	}
	p, err := f.point(r.Point, r.Tier)
	if err != nil {
		return mover.Verified{}, err
	}
	if err := f.report(ctx, "verify", progress); err != nil {
		return mover.Verified{}, err
	}
	v := mover.Verified{SHA256: map[backstay.DiskTarget]string{}}
	for _, d := range p.taken.Disks {
		sum := sha256.Sum256(fmt.Append(nil, r.Point, d.Target))
		v.SHA256[d.Target] = hex.EncodeToString(sum[:])
	}
	return v, nil
}

// Stage is mover.Restores'.
func (f *Fake) Stage(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	if err := f.enter(ctx, "Stage"); err != nil {
		return mover.Staged{}, err
	}
	if r.Plan.Tier == backstay.VaultTier {
		if err := f.opens(r.Vault); err != nil {
			return mover.Staged{}, err
		}
	}
	if _, err := f.point(r.Plan.Point, r.Plan.Tier); err != nil {
		return mover.Staged{}, err
	}
	for _, phase := range []string{"write", "verify"} {
		if err := f.report(ctx, phase, progress); err != nil {
			return mover.Staged{}, err
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	var staged mover.Staged
	for _, d := range r.Plan.Disks {
		if owner, taken := f.staged[d.Path]; taken && owner != r.Job {
			return mover.Staged{}, backstay.Errorf(backstay.CodePreflight, "%s exists already", d.Path)
		}
		f.staged[d.Path] = r.Job
		staged.Paths = append(staged.Paths, d.Path)
	}
	return staged, nil
}

// Define is mover.Restores'.
func (f *Fake) Define(ctx context.Context, r mover.StageRequest) (mover.Defined, error) {
	if err := f.enter(ctx, "Define"); err != nil {
		return mover.Defined{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for id, name := range f.vms {
		if (id == r.Plan.UUID) != (name == r.Plan.Name) {
			return mover.Defined{}, backstay.Errorf(backstay.CodeCreateVMFailed, "VM %s cannot be created", r.Plan.Name).Becausef("name or UUID is taken")
		}
	}
	f.vms[r.Plan.UUID] = r.Plan.Name
	return mover.Defined{}, nil
}

// Start is mover.Restores'.
func (f *Fake) Start(ctx context.Context, r mover.StageRequest) (mover.Up, error) {
	if err := f.enter(ctx, "Start"); err != nil {
		return mover.Up{}, err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if _, ok := f.vms[r.Plan.UUID]; !ok {
		return mover.Up{}, backstay.Errorf(backstay.CodeStartFailed, "there is no VM %s", r.Plan.Name)
	}
	return mover.Up{Seconds: 0.1, How: "the guest agent answered"}, nil
}

// CopyBehind is mover.Lives'.
func (f *Fake) CopyBehind(ctx context.Context, r mover.StageRequest, progress mover.Progress) error {
	if err := f.enter(ctx, "CopyBehind"); err != nil {
		return err
	}
	return f.report(ctx, "copy", progress)
}

// Hurry is mover.Lives'.
func (f *Fake) Hurry(ctx context.Context, _ backstay.JobID) error { return f.enter(ctx, "Hurry") }

// Abandon is mover.Restores'.
func (f *Fake) Abandon(ctx context.Context, r mover.StageRequest) error {
	if err := f.enter(ctx, "Abandon"); err != nil {
		return err
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	for _, d := range r.Plan.Disks {
		if f.staged[d.Path] == r.Job {
			delete(f.staged, d.Path)
		}
	}
	if r.Plan.UUID != f.Machine.ID {
		delete(f.vms, r.Plan.UUID)
	}
	return nil
}
