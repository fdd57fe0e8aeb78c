package host

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/live"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// liveJournal is what a restore's journal says for as long as the VM's disks stand
// on an export.
type liveJournal struct {
	// Folder is that of the export's socket. Images name it: it never changes.
	Folder string `json:"folder"`
	// Sealed is the file with what the export needs, sealed for this host.
	Sealed string `json:"sealed"`
	// Disks are the targets that are served.
	Disks []backstay.DiskTarget `json:"disks"`
	// Copied are the targets whose images are known to hold everything. One that
	// names nothing that it stands on, and is not among them, may lack what QEMU had
	// not written yet when it ended.
	Copied []backstay.DiskTarget `json:"copied,omitempty"`
	// Owner are the error policies as the VM's owner had them.
	Owner map[backstay.DiskTarget]hypervisor.Policies `json:"owner,omitempty"`
	// Starting is set before the VM is started with its processors stopped: whoever
	// finds it so lets it run (I9).
	Starting bool `json:"starting,omitempty"`
}

// stops is what a VM does whose disk stands on an export: a request that fails
// stops it, and is made again when it goes on. An error would reach the guest.
var stops = hypervisor.Policies{Write: "stop", Read: "stop"}

// exportDismissal is how long an export may take to end once nobody needs it.
const exportDismissal = 10 * time.Second

// newLive begins what a live restore journals; its files are added to the journal.
func (h *Host) newLive(r mover.StageRequest, j *restoreJournal) {
	name := strings.ToLower(string(r.Job))
	j.Live = &liveJournal{
		Folder: filepath.Join(h.sockets, "live-"+name),
		Sealed: filepath.Join(h.state, "live", name+".sealed"),
	}
	for _, d := range r.Plan.Disks {
		j.Live.Disks = append(j.Live.Disks, d.Target)
	}
	j.add(j.Live.Sealed, h.hurryFile(r.Job))
	j.Folders = append(j.Folders, j.Live.Folder)
}

// below is what the disks of the VM stand on.
func (l *liveJournal) below() []hypervisor.Below {
	var all []hypervisor.Below
	for _, target := range l.Disks {
		all = append(all, hypervisor.Below{Target: target, Socket: live.Socket(l.Folder), Export: string(target)})
	}
	return all
}

// liveSource restores by overlays on an export of a vault's point.
type liveSource struct{ *Host }

func (*liveSource) close() {}

func (s *liveSource) write(ctx context.Context, r mover.StageRequest, j *restoreJournal, progress mover.Progress) (staged mover.Staged, err error) {
	progress(mover.Report{Phase: "write"})
	if err := s.seal(ctx, r, j); err != nil {
		return staged, err
	}
	if err := s.ensureExport(ctx, j); err != nil {
		return staged, err
	}
	for i, below := range j.Live.below() {
		d := r.Plan.Disks[i]
		if d.Format != "qcow2" || d.Secret != "" {
			return staged, backstay.Errorf(backstay.CodeInternal, "disk %s was planned as %s, and an overlay on an export is plain qcow2", d.Target, d.Format)
		}
		o := hypervisor.Overlay{Path: d.Path, Backing: hypervisor.Plain(below.Location(), "raw"), Size: d.Size, Coarse: true}
		if err := s.images.CreateOverlay(ctx, o); err != nil {
			return staged, fmt.Errorf("make disk %s: %w", d.Target, err)
		}
		info, err := s.images.Info(ctx, d.Path)
		if err != nil {
			return staged, fmt.Errorf("look at disk %s: %w", d.Target, err)
		}
		if hypervisor.Location(info.Backing) != below.Location() || info.VirtualSize != d.Size || info.Format != "qcow2" {
			return staged, fmt.Errorf("disk %s was not made as it must be: it stands on %q with %d bytes", d.Target, info.Backing, info.VirtualSize)
		}
		staged.Paths = append(staged.Paths, d.Path)
	}
	return staged, nil
}

// seal keeps what the export needs, for every later start of it, so that only this
// host can read it (I10).
func (h *Host) seal(ctx context.Context, r mover.StageRequest, j *restoreJournal) error {
	uid, gid, err := h.hv.QEMUUser(ctx)
	if err != nil {
		return err
	}
	o := live.Order{Folder: j.Live.Folder, User: uid, Group: gid, Point: r.Plan.Point, Vault: *r.Vault}
	for _, d := range r.Plan.Disks {
		o.Disks = append(o.Disks, live.Disk{Target: d.Target, Size: d.Size})
	}
	key, err := h.keys.Create(ctx, snapshot.HostKey, func() (backstay.Secret, error) {
		fresh := make([]byte, 32)
		_, err := rand.Read(fresh)
		return backstay.NewSecret(fresh), err
	})
	if err != nil {
		return fmt.Errorf("read the host's key: %w", err)
	}
	sealed, err := live.Seal(key.Reveal(), r.Job, o)
	if err != nil {
		return err
	}
	if err := os.MkdirAll(filepath.Dir(j.Live.Sealed), 0o700); err != nil {
		return fmt.Errorf("keep what the export needs: %w", err)
	}
	if err := durable.WriteFile(j.Live.Sealed, sealed); err != nil {
		return fmt.Errorf("keep what the export needs: %w", err)
	}
	return nil
}

// ensureExport starts the export if it does not run: at first, after it was killed,
// after the machine was started again.
func (h *Host) ensureExport(ctx context.Context, j *restoreJournal) error {
	if h.exports.Running(j.Live.Folder) {
		return nil
	}
	sealed, err := os.ReadFile(j.Live.Sealed)
	if err != nil {
		return fmt.Errorf("read what the export needs: %w", err)
	}
	key, err := h.keys.Key(ctx, snapshot.HostKey)
	if err != nil {
		return fmt.Errorf("read the host's key: %w", err)
	}
	o, err := live.Unseal(key.Reveal(), j.Job, sealed)
	if err != nil {
		return err
	}
	if err := live.Prepare(o); err != nil {
		return err
	}
	return h.exports.Start(ctx, o)
}

// dismissExport lets the export end, and waits until it has, with its folder.
func (h *Host) dismissExport(ctx context.Context, j *restoreJournal) error {
	if err := live.Dismiss(j.Live.Folder); err != nil {
		return err
	}
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), exportDismissal)
	defer cancel()
	for h.exports.Running(j.Live.Folder) {
		select {
		case <-time.After(50 * time.Millisecond):
		case <-ctx.Done():
			h.log.Warn("the export of a live restore still serves somebody", "job", j.Job)
			return nil
		}
	}
	if err := os.RemoveAll(j.Live.Folder); err != nil {
		return fmt.Errorf("remove the folder of the export: %w", err)
	}
	return nil
}

// liveDefinition lets the VM stop rather than tell its guest of an error, and
// returns the policies that the owner had.
func liveDefinition(xml string, j *liveJournal) (string, error) {
	doc := etree.NewDocument()
	doc.ReadSettings.PreserveCData = true
	doc.WriteSettings.AttrSingleQuote = true
	if err := doc.ReadFromString(xml); err != nil {
		return "", fmt.Errorf("read the new definition: %w", err)
	}
	j.Owner = map[backstay.DiskTarget]hypervisor.Policies{}
	for _, d := range doc.FindElements("/domain/devices/disk") {
		target, driver := d.SelectElement("target"), d.SelectElement("driver")
		if target == nil || driver == nil {
			continue
		}
		name := backstay.DiskTarget(target.SelectAttrValue("dev", ""))
		if !slices.Contains(j.Disks, name) {
			continue
		}
		j.Owner[name] = hypervisor.Policies{
			Write: driver.SelectAttrValue("error_policy", ""), Read: driver.SelectAttrValue("rerror_policy", ""),
		}
		setAttr(driver, "error_policy", stops.Write)
		setAttr(driver, "rerror_policy", stops.Read)
	}
	return doc.WriteToString()
}

// lockLive keeps apart those who look after the export of one live restore.
func (h *Host) lockLive(ctx context.Context, job backstay.JobID) (func(), error) {
	return h.vms.lock(ctx, "live "+string(job))
}

// startLive starts the VM with its processors stopped, lets its disks wait for the
// export, and lets it run. Safe to repeat wherever it was cut off.
func (h *Host) startLive(ctx context.Context, r mover.StageRequest) error {
	unlock, err := h.lockLive(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(r.Job)
	if err != nil || j == nil || j.Live == nil {
		return errors.Join(err, h.startAlone(ctx, r.Plan.UUID))
	}
	if err := h.ensureExport(ctx, j); err != nil {
		return err
	}
	domain, err := h.hv.Domain(ctx, j.VM)
	if err != nil {
		return err
	}
	if domain.VM.State == backstay.VMShutOff {
		j.Live.Starting = true
		if err := j.write(); err != nil {
			return err
		}
		if err := h.hv.StartPaused(ctx, j.VM); err != nil {
			return err
		}
	}
	return h.letRun(ctx, j)
}

// startAlone starts a VM that stands on its own by now.
func (h *Host) startAlone(ctx context.Context, id backstay.VMID) error {
	domain, err := h.hv.Domain(ctx, id)
	if err != nil || domain.VM.State != backstay.VMShutOff {
		return err
	}
	return h.hv.Start(ctx, id)
}

// letRun connects the disks of a VM that runs, and lets it run if it was us who
// stopped it, or if a request failed it.
func (h *Host) letRun(ctx context.Context, j *restoreJournal) error {
	if err := h.hv.Reconnect(ctx, j.VM, j.Live.below()); err != nil {
		return err
	}
	if j.Live.Starting {
		if err := h.hv.Resume(ctx, j.VM); err != nil {
			return err
		}
		j.Live.Starting = false
		return j.write()
	}
	was, err := h.hv.Unstall(ctx, j.VM)
	if was {
		h.log.Info("a VM that is restored live goes on", "vm", j.Name)
	}
	return err
}

// tend sees that what a live restore needs is there: the export runs, and the VM,
// by whatever hand it was started, waits for it rather than fails.
func (h *Host) tend(ctx context.Context, job backstay.JobID) error {
	unlock, err := h.lockLive(ctx, job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(job)
	if err != nil || j == nil || j.Live == nil || j.Abandoned {
		return err
	}
	domain, err := h.hv.Domain(ctx, j.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		if !j.Defining {
			return nil // it is still to be made
		}
		// Its owner undefined it, and may define it again; the disks are theirs.
		return live.Dismiss(j.Live.Folder)
	}
	if err != nil {
		return err
	}
	if err := h.ensureExport(ctx, j); err != nil {
		return err
	}
	if domain.VM.State == backstay.VMShutOff {
		return h.putBelow(ctx, j, &domain)
	}
	return h.letRun(ctx, j)
}

// putBelow lets the images of a VM that has ended stand on the export again, of
// those that are not known to hold everything: what they lack shows through then.
func (h *Host) putBelow(ctx context.Context, j *restoreJournal, domain *hypervisor.Domain) error {
	for _, below := range j.Live.below() {
		chain := domain.Chains[below.Target]
		if len(chain) != 1 || slices.Contains(j.Live.Copied, below.Target) || !slices.Contains(j.Files, chain[0]) {
			continue
		}
		h.log.Warn("a VM ended before its disk was known to be complete; what is missing is read from the vault again", "vm", j.Name, "disk", below.Target)
		if err := h.images.Rebase(ctx, hypervisor.Plain(chain[0], "qcow2"), hypervisor.Plain(below.Location(), "raw")); err != nil {
			return fmt.Errorf("let disk %s stand on the export again: %w", below.Target, err)
		}
	}
	return nil
}

// copied notes that a disk's image holds everything, durably.
func (h *Host) copied(ctx context.Context, job backstay.JobID, target backstay.DiskTarget) error {
	unlock, err := h.lockLive(ctx, job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(job)
	if err != nil || j == nil || j.Live == nil || slices.Contains(j.Live.Copied, target) {
		return err
	}
	j.Live.Copied = append(j.Live.Copied, target)
	return j.write()
}

// lives lists the restores whose VMs stand on an export.
func (h *Host) lives() (all []*restoreJournal, err error) {
	journals, err := h.journals()
	for _, j := range journals {
		if j.Live != nil && !j.Abandoned {
			all = append(all, j)
		}
	}
	return all, err
}

// notLive refuses what cannot be done to a VM whose disks are still copied in.
func (h *Host) notLive(id backstay.VMID) error {
	all, err := h.lives()
	if err != nil {
		return err
	}
	for _, j := range all {
		if j.VM == id {
			return backstay.Errorf(backstay.CodeConflict, "VM %s cannot be backed up yet", j.Name).Becausef("%s", liveReason(j)).
				Do("wait for job %s, or end the wait with `backstay restore finish %s`", j.Job, j.Job)
		}
	}
	return nil
}

// liveReason says why a VM cannot be protected.
func liveReason(j *restoreJournal) string {
	if j.Drill != "" {
		return fmt.Sprintf("it is part of drill %s, and goes with it", j.Drill)
	}
	return fmt.Sprintf("it is being restored live: its disks are still copied in from the vault by job %s", j.Job)
}
