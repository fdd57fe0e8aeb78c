package snapshot

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"
	"unicode/utf8"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// agentTimeout bounds each wait for a guest agent.
const agentTimeout = 2 * time.Second

// Request asks to make ready for a point.
type Request struct {
	Job   backstay.JobID
	Point backstay.PointID
	VM    backstay.VMID
	Disks []backstay.DiskTarget
	// Depth is the most points that a disk's chain may hold with the new one; 0
	// means backstay.MaxDepth.
	Depth int
	// Consistency is what Take will wish for; with crash the agent is not asked.
	Consistency backstay.Consistency
	// Secrets are what the point keeps of the secrets of the VM.
	Secrets []tier.Secret
}

// Prepared is what was made ready: overlays that exist and that nobody uses.
type Prepared struct {
	Disks []PreparedDisk
	Agent backstay.AgentState
	Notes []string
}

// PreparedDisk is one disk with its frozen-to-be layer and its new overlay.
type PreparedDisk struct {
	Target  backstay.DiskTarget
	Source  string
	Format  string
	Secret  string
	Size    int64
	Layer   backstay.LayerID
	Overlay string
	Next    backstay.LayerID
}

// Prepare does everything slow before the guest is touched: it journals an
// intent, makes the overlays beside the disks, and pings the guest agent.
// Repeating it for the same point starts over.
func (t *Tier) Prepare(ctx context.Context, r Request) (Prepared, error) {
	// A VM may have come from another host with its disks: what is recorded beside
	// them counts from the first point here on.
	if err := t.lookAround(ctx); err != nil {
		return Prepared{}, hypervisorError(err, "host %s cannot be looked at", t.host)
	}
	if err := t.settleOthers(ctx, r.VM); err != nil {
		return Prepared{}, err
	}
	domain, err := t.domain(ctx, r.VM)
	if err != nil {
		return Prepared{}, err
	}
	disks, err := chooseDisks(domain, r.Disks)
	if err != nil {
		return Prepared{}, err
	}
	if err := t.makeLayerFolder(disks); err != nil {
		return Prepared{}, err
	}
	if err := t.checkRoom(disks); err != nil {
		return Prepared{}, err
	}
	in, err := t.begin(ctx, r, domain, disks)
	if err != nil {
		return Prepared{}, snapshotFailed(&domain.VM, err)
	}
	for _, d := range in.Disks {
		if err := t.images.CreateOverlay(ctx, hypervisor.Overlay{Path: d.Overlay, Backing: hypervisor.Image{Location: d.Source, Format: d.Format, Secret: d.Secret}, Size: d.Size}); err != nil {
			return Prepared{}, snapshotFailed(&domain.VM, errors.Join(
				fmt.Errorf("make overlay of disk %s: %w", d.Target, err), t.discard(in)))
		}
	}
	p := Prepared{Agent: domain.VM.Agent}
	for _, d := range in.Disks {
		p.Disks = append(p.Disks, PreparedDisk(d))
	}
	if r.Consistency == backstay.CrashConsistent {
		return p, nil
	}
	p.Agent, p.Notes = t.askAgent(ctx, &domain.VM)
	running := domain.VM.State == backstay.VMRunning
	var silent string
	if running && domain.VM.Agent == backstay.AgentConnected && p.Agent != domain.VM.Agent {
		silent = noAnswer
	}
	t.expect(ctx, r.Point, r.VM, silent, running && p.Agent == backstay.AgentConnected)
	return p, nil
}

// settleOthers ends what earlier attempts left of this VM, so that its active
// files and the records agree.
func (t *Tier) settleOthers(ctx context.Context, vm backstay.VMID) error {
	if err := t.finishMerges(ctx, vm); err != nil {
		return err
	}
	if err := t.finishCopies(ctx, vm); err != nil {
		return err
	}
	b, err := t.load()
	if err != nil {
		return err
	}
	for _, in := range b.Intents {
		if in.VM.UUID != vm {
			continue
		}
		if _, _, err := t.Settle(ctx, vm, in.ID); err != nil {
			return err
		}
	}
	return nil
}

// chooseDisks returns the wanted disks, or refuses with the reason of the VM
// or of the disk.
func chooseDisks(domain hypervisor.Domain, wanted []backstay.DiskTarget) ([]backstay.Disk, error) {
	vm := &domain.VM
	if reason := vm.Obstacle(backstay.MethodLayers); reason != "" {
		return nil, backstay.Errorf(backstay.CodeNoDisks, "%s cannot be backed up", vm.Name).Becausef("%s", reason)
	}
	if domain.Inside {
		return nil, backstay.Errorf(backstay.CodeNoDisks, "%s cannot be backed up", vm.Name).
			Becausef("it has snapshots inside its images (%s), which a new layer would hide", strings.Join(domain.Snapshots, ", ")).
			Do("delete them with `virsh snapshot-delete`, then try again")
	}
	var chosen []backstay.Disk
	for _, target := range wanted {
		disk, ok := findDisk(vm, target)
		if !ok {
			return nil, backstay.Errorf(backstay.CodeDiskNotPossible, "%s has no disk %s", vm.Name, target)
		}
		if disk.Reason != "" {
			return nil, backstay.Errorf(backstay.CodeDiskNotPossible, "disk %s of %s cannot be backed up", target, vm.Name).Becausef("%s", disk.Reason)
		}
		chosen = append(chosen, disk)
	}
	if len(chosen) == 0 {
		return nil, backstay.Errorf(backstay.CodeNoDisks, "%s has no disk to back up", vm.Name)
	}
	return chosen, nil
}

func findDisk(vm *backstay.VM, target backstay.DiskTarget) (backstay.Disk, bool) {
	for _, d := range vm.Disks {
		if d.Target == target {
			return d, true
		}
	}
	return backstay.Disk{}, false
}

// roomFor is the room that an overlay of a disk should find: a twentieth of
// the disk, and at most 1 GiB.
func roomFor(size int64) int64 { return min(size/20, 1<<30) }

// checkRoom sees that each file system has room for the overlays on it.
func (t *Tier) checkRoom(disks []backstay.Disk) error {
	need := map[uint64]int64{}
	for _, d := range disks {
		folder := t.folderOf(d)
		var st unix.Stat_t
		if err := unix.Stat(folder, &st); err != nil {
			return backstay.Errorf(backstay.CodeSnapshotFailed, "the folder of disk %s cannot be used", d.Target).Because(err)
		}
		var fs unix.Statfs_t
		if err := unix.Statfs(folder, &fs); err != nil {
			return backstay.Errorf(backstay.CodeSnapshotFailed, "the folder of disk %s cannot be used", d.Target).Because(err)
		}
		need[st.Dev] += roomFor(d.Size)
		if room := int64(fs.Bavail) * fs.Bsize; room < need[st.Dev] {
			return backstay.Errorf(backstay.CodeNoSpace, "there is too little room beside disk %s", d.Target).
				Becausef("%s has %d MiB left, and the new layers should find %d MiB", folder, room>>20, need[st.Dev]>>20)
		}
	}
	return nil
}

// begin writes the intent, and the records of layers that are not known yet.
func (t *Tier) begin(ctx context.Context, r Request, domain hypervisor.Domain, disks []backstay.Disk) (*intent, error) {
	vm := domain.VM.Ref()
	vm.Host = t.host
	in := &intent{
		ID: r.Point, Job: r.Job, VM: vm, Stage: record.StagePrepared,
		Path: record.IntentFile(t.folderOf(disks[0]), r.Point),
	}
	if err := t.sealSecrets(ctx, in, r.Secrets); err != nil {
		return nil, err
	}
	err := t.change(func(b *book) error {
		if b.Points[r.Point] != nil {
			return fmt.Errorf("point %s is recorded already", r.Point)
		}
		if err := b.checkDepth(&domain, disks, r.Depth); err != nil {
			return err
		}
		for _, d := range disks {
			if err := errors.Join(b.Remember(t.folderOf(d)), record.Reserve(t.folderOf(d))); err != nil {
				return err
			}
			layer, err := t.activeLayer(b, &domain, d)
			if err != nil {
				return err
			}
			next, err := t.newLayerID()
			if err != nil {
				return err
			}
			name := fmt.Sprintf("%s-%s.%s.qcow2", plainName(domain.VM.Name), d.Target, strings.ToLower(string(next)))
			in.Disks = append(in.Disks, intentDisk{
				Target: d.Target, Source: d.Source, Format: layer.Format, Secret: layer.Secret, Size: d.Size, Layer: layer.ID,
				Overlay: filepath.Join(t.folderOf(d), name), Next: next,
			})
		}
		return in.Write()
	})
	return in, err
}

// activeLayer returns the record of the file that the VM writes to, and makes
// it if there is none: then this file is the bottom (I15).
func (t *Tier) activeLayer(b *book, domain *hypervisor.Domain, d backstay.Disk) (*Layer, error) {
	if l := b.ByFile(d.Source); l != nil && !b.idle(l) {
		return l, t.denounce(b, domain, l)
	}
	id, err := t.newLayerID()
	if err != nil {
		return nil, err
	}
	if old := b.ByFile(d.Source); old != nil {
		id = old.ID
	}
	image := hypervisor.ImageOf(d)
	l := &Layer{
		ID: id, File: d.Source, Format: image.Format, Secret: image.Secret, Target: d.Target, VM: domain.VM.ID, Size: d.Size, Bottom: true,
		Element: domain.Elements[d.Target],
	}
	if elsewhere(d) {
		l.Folder = t.layers
	}
	if l.Parent, err = t.strangersBelow(b, l, domain.Chains[d.Target]); err != nil {
		return nil, err
	}
	return l, b.Put(l)
}

// strangersBelow records what somebody else put between the file that a VM
// writes to and the next layer of ours, so that merges know what stands on it.
// It returns the layer directly below the active one; none if no layer of ours is.
func (t *Tier) strangersBelow(b *book, active *Layer, chain []string) (parent backstay.LayerID, err error) {
	ours := slices.IndexFunc(chain, func(file string) bool { return file != active.File && b.ByFile(file) != nil })
	if ours < 0 {
		return "", nil
	}
	parent = b.ByFile(chain[ours]).ID
	for _, file := range slices.Backward(chain[:ours]) {
		if file == active.File {
			continue
		}
		id, err := t.newLayerID()
		if err != nil {
			return "", err
		}
		// It stands on another image, so it is qcow2.
		l := &Layer{ID: id, File: file, Format: "qcow2", Secret: active.Secret, Parent: parent, Target: active.Target, VM: active.VM, Size: active.Size, Bottom: true}
		if err := b.Put(l); err != nil {
			return "", err
		}
		parent = id
	}
	return parent, nil
}

// idle tells whether nothing stands or rests on a layer: its record says
// nothing that the VM's definition does not say better.
func (b *book) idle(l *Layer) bool {
	return l.Bottom && len(l.Points) == 0 && len(l.Users) == 0 && len(b.Children(l.ID)) == 0
}

// denounce marks the points of a layer that a VM writes to although it was
// frozen: somebody put the VM back on it. They, and all that stand on it, are
// not what they were and are never offered again.
func (t *Tier) denounce(b *book, domain *hypervisor.Domain, l *Layer) error {
	for _, id := range b.pointsAbove(l.ID) {
		p := b.Points[id]
		if p.State == record.PointBroken {
			continue
		}
		// Whatever else it was: of one of which only the change map was kept, or whose
		// drop had begun, no map may be told any more (I7).
		p.State, p.Was = record.PointBroken, ""
		p.StateReason = fmt.Sprintf("%s wrote to %s after the point was taken", domain.VM.Name, l.File)
		t.log.Warn("point is broken", "point", id, "reason", p.StateReason)
		if err := b.PutPoint(p); err != nil {
			return err
		}
	}
	return nil
}

// pointsAbove returns the points on the layer and on all that stand on it.
func (b *book) pointsAbove(id backstay.LayerID) []backstay.PointID {
	var found []backstay.PointID
	for _, p := range b.Points {
		for _, d := range p.Disks {
			for _, l := range b.Chain(d.Layer) {
				if l.ID == id {
					found = append(found, p.ID)
				}
			}
		}
	}
	return found
}

// askAgent pings the agent of a running VM, and says what will be weaker.
func (t *Tier) askAgent(ctx context.Context, vm *backstay.VM) (backstay.AgentState, []string) {
	switch {
	case vm.State != backstay.VMRunning:
		return vm.Agent, nil
	case vm.Agent != backstay.AgentConnected:
		return vm.Agent, []string{noAgentReason(vm.Agent)}
	}
	if err := t.hv.PingAgent(ctx, vm.ID, agentTimeout); err != nil {
		return backstay.AgentDisconnected, []string{noAnswer}
	}
	return vm.Agent, nil
}

// noAnswer is said of an agent that hangs.
const noAnswer = "the guest agent did not answer in 2 s"

func noAgentReason(state backstay.AgentState) string {
	if state == backstay.AgentNone {
		return "the VM has no guest agent channel"
	}
	return "the guest agent is not running in the guest"
}

// longestName is how many bytes of a VM's name a layer's file name holds, so
// that the whole fits the 255 of a file system.
const longestName = 180

// plainName makes a VM's name fit for a file name.
func plainName(name string) string {
	name = strings.Map(func(r rune) rune {
		if r == '/' || r == 0 {
			return '_'
		}
		return r
	}, name)
	for len(name) > longestName {
		_, size := utf8.DecodeLastRuneInString(name)
		name = name[:len(name)-size]
	}
	return name
}

// domain describes a VM, with errors that people understand.
func (t *Tier) domain(ctx context.Context, id backstay.VMID) (hypervisor.Domain, error) {
	d, err := t.hv.Domain(ctx, id)
	if err != nil {
		return d, hypervisorError(err, "VM %s cannot be described", id)
	}
	return d, nil
}

// hypervisorError gives a hypervisor's error its code.
func hypervisorError(err error, format string, args ...any) error {
	code := backstay.CodeHypervisor
	switch {
	case errors.Is(err, hypervisor.ErrNoVM):
		code = backstay.CodeUnknownVM
	case errors.Is(err, hypervisor.ErrAway):
		code = backstay.CodeHostAway
	}
	return backstay.Errorf(code, format, args...).Because(err)
}

// snapshotFailed keeps an error's own code, if it has one.
func snapshotFailed(vm *backstay.VM, err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return err
	}
	if errors.Is(err, hypervisor.ErrAway) {
		return hypervisorError(err, "the snapshot of %s failed", vm.Name)
	}
	if errors.Is(err, unix.ENOSPC) {
		return backstay.Errorf(backstay.CodeNoSpace, "the snapshot of %s failed", vm.Name).Because(err)
	}
	return backstay.Errorf(backstay.CodeSnapshotFailed, "the snapshot of %s failed", vm.Name).Because(err)
}
