package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/undo"
)

var _ mover.Mover = (*Host)(nil)

// Stage writes the disks of a planned restore beside everything that is there
// and verifies them (I8). From the snapshot tier it makes overlays and copies
// nothing. A repeat after it succeeded does nothing; after a crash it goes on from
// what is durable. While the vault does not answer it waits, for some time. On
// error nothing of it stays, unless the vault was away to the end, or whoever asked
// went away without a cancel: then what is written waits for the next call, for
// that of a job which retries this one, or for Abandon.
func (h *Host) Stage(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Staged, error) {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return mover.Staged{}, err
	}
	defer unlock()
	staged, err := h.stagePatiently(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Staged{}, restoreError(ctx, r.Plan, err)
	}
	return staged, nil
}

// lockRestore keeps the calls of one restore apart.
func (h *Host) lockRestore(ctx context.Context, job backstay.JobID) (func(), error) {
	return h.vms.lock(ctx, "restore "+string(job))
}

func (h *Host) stage(ctx context.Context, r mover.StageRequest, progress mover.Progress) (staged mover.Staged, err error) {
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return staged, err
	}
	if j != nil {
		if err := j.of(r.Plan); err != nil {
			return staged, err
		}
		if j.Staged != nil && !j.Abandoned && allThere(j.Staged.Paths) {
			return *j.Staged, nil
		}
		if r.Plan.Live || !j.unfinished(r.Plan) {
			if err := h.abandon(ctx, j); err != nil {
				return staged, fmt.Errorf("remove what an interrupted attempt left: %w", err)
			}
			j = nil
		}
	}
	held, err := h.heldOf(ctx, r)
	if err != nil {
		return staged, err
	}
	if err := neverPlain(held.definition, r.Plan); err != nil {
		return staged, err
	}
	source, err := h.openSource(ctx, r)
	if err != nil {
		return staged, err
	}
	defer source.close()
	if j == nil {
		if j, err = h.claim(ctx, r); err != nil {
			return staged, err
		}
	} else if err := makeFolder(r.Plan); err != nil {
		return staged, err
	}
	var u undo.Stack
	u.Push("restore "+string(r.Job), func(ctx context.Context) error { return h.discard(ctx, j) })
	defer func() {
		if err != nil && !j.waits(ctx, err) {
			err = errors.Join(err, u.Run(ctx))
		}
	}()
	book := h.secretBook(r.Services, held.layers)
	if err = book.makeSecrets(ctx, j, neededSecrets(held.definition, r.Plan.Disks, r.Plan.TPM)); err != nil {
		return mover.Staged{}, err
	}
	if staged, err = source.write(ctx, r, j, progress); err != nil {
		return mover.Staged{}, err
	}
	if err := j.update(func() { j.Staged = &staged }); err != nil {
		return mover.Staged{}, err
	}
	u.Success()
	if err := j.removeSums(); err != nil {
		h.log.Warn("sums that are not needed any more stay", "job", r.Job, "error", err) // until the journal goes
	}
	return staged, nil
}

// claim journals the disks that a restore will make. What another restore has
// journalled and not made yet is taken too: of two that make one file the one
// that fails would remove the other's. An attempt of the same plan that ended
// because the vault was away is gone on with.
func (h *Host) claim(ctx context.Context, r mover.StageRequest) (*restoreJournal, error) {
	unlock, err := h.vms.lock(ctx, "restore journals")
	if err != nil {
		return nil, err
	}
	defer unlock()
	j, err := h.newJournal(r)
	if err != nil {
		return nil, err
	}
	others, err := h.journals()
	if err != nil {
		return nil, err
	}
	if r.Plan.Live {
		h.newLive(r, j)
	}
	for _, o := range others {
		if o.Left != nil && o.of(r.Plan) == nil && o.unfinished(r.Plan) {
			return o.continueAs(r.Job, j.path)
		}
	}
	if err := j.claimFolder(r.Plan, others); err != nil {
		return nil, err
	}
	for _, d := range r.Plan.Disks {
		claimed := slices.ContainsFunc(others, func(o *restoreJournal) bool {
			ended := o.Staged != nil && !o.Abandoned // what it made is its owner's
			return o.Job != r.Job && !ended && o.takes(d.Path)
		})
		if exists(d.Path) && !d.Device || claimed {
			return nil, taken(d.Path)
		}
		if d.Device {
			j.Devices = append(j.Devices, d.Path)
		} else {
			j.add(d.Path)
		}
	}
	if err := j.write(); err != nil {
		return nil, err
	}
	return j, makeFolder(r.Plan)
}

func taken(path string) error {
	return backstay.Errorf(backstay.CodePreflight, "%s exists already", path).
		Becausef("a restore never writes over a file").Do("move it away, or choose another --name or --pool")
}

func allThere(paths []string) bool {
	return !slices.ContainsFunc(paths, func(p string) bool { return !exists(p) })
}

// restoreSource is the tier that a restore reads.
type restoreSource interface {
	// write makes the plan's disks. The journal names them already.
	write(ctx context.Context, r mover.StageRequest, j *restoreJournal, progress mover.Progress) (mover.Staged, error)
	close()
}

// openSource opens the point before anything is made.
func (h *Host) openSource(ctx context.Context, r mover.StageRequest) (restoreSource, error) {
	if h.streamed(r.Plan) {
		return h.openStream(ctx, r)
	}
	if r.Plan.Tier != backstay.VaultTier {
		point, err := h.openPoint(ctx, r.Plan.Point)
		if err != nil {
			return nil, err
		}
		if r.Plan.Kind == backstay.RestoreDisks { // whole copies, that need no layer any more
			return &vaultSource{Host: h, open: func(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
				return point.OpenDisk(ctx, target, r.Job)
			}}, nil
		}
		return &snapshotSource{h, point}, nil
	}
	if r.Vault == nil {
		return nil, backstay.Errorf(backstay.CodeInternal, "a restore from the vault tier names no vault")
	}
	if r.Plan.Live {
		return &liveSource{h}, nil
	}
	source := &vaultSource{Host: h}
	v, err := h.openVault(ctx, *r.Vault, vault.OnDamage(source.damaged))
	if err != nil {
		return nil, err
	}
	source.end = v.Close
	point, err := v.OpenPoint(ctx, r.Plan.Point)
	if err != nil {
		source.close()
		return nil, err
	}
	source.open = point.Disk
	return source, nil
}

// snapshotSource restores by overlays on the frozen layers of a point.
type snapshotSource struct {
	*Host
	point *snapshot.Point
}

func (s *snapshotSource) close() {}

func (s *snapshotSource) write(ctx context.Context, r mover.StageRequest, _ *restoreJournal, progress mover.Progress) (mover.Staged, error) {
	progress(mover.Report{Phase: "write"})
	// First of all disks: from here on no layer of the point can be merged.
	for _, d := range r.Plan.Disks {
		if d.Format != "qcow2" {
			return mover.Staged{}, backstay.Errorf(backstay.CodeInternal, "disk %s was planned as %s, and an overlay is qcow2", d.Target, d.Format)
		}
		err := s.tier.AddUser(r.Plan.Point, d.Target, snapshot.User{
			Kind: snapshot.UserVM, ID: string(r.Plan.UUID), Job: r.Job, Since: s.now(), Overlay: d.Path,
		})
		if err != nil {
			return mover.Staged{}, err
		}
	}
	var staged mover.Staged
	for _, d := range r.Plan.Disks {
		layers, ok := s.point.Disk(d.Target)
		if !ok {
			return mover.Staged{}, backstay.Errorf(backstay.CodeNotRestorable, "disk %s is not part of point %s", d.Target, r.Plan.Point)
		}
		if err := s.images.CreateOverlay(ctx, hypervisor.Overlay{Path: d.Path, Backing: hypervisor.Image{Location: layers.Path, Format: layers.Format, Secret: layers.Secret}}); err != nil {
			return mover.Staged{}, fmt.Errorf("make disk %s: %w", d.Target, err)
		}
		staged.Paths = append(staged.Paths, d.Path)
	}
	progress(mover.Report{Phase: "verify"})
	for _, d := range r.Plan.Disks {
		layers, _ := s.point.Disk(d.Target)
		info, err := s.images.Info(ctx, d.Path)
		if err != nil {
			return mover.Staged{}, fmt.Errorf("look at disk %s: %w", d.Target, err)
		}
		if info.Backing != layers.Path || info.VirtualSize != layers.Size || info.Format != "qcow2" {
			return mover.Staged{}, fmt.Errorf("disk %s was not made as it must be: it stands on %q with %d bytes", d.Target, info.Backing, info.VirtualSize)
		}
	}
	return staged, nil
}

// discard removes what a journal names and then the journal: files first, then
// the entries that keep layers from being merged, so that at no instant a file
// stands on a layer that is not kept.
func (h *Host) discard(ctx context.Context, j *restoreJournal) error {
	if j.Live != nil {
		if err := h.dismissExport(ctx, j); err != nil {
			return err
		}
	}
	for _, path := range j.Files {
		if j.foreign(path) { // somebody put his own there
			continue
		}
		if err := durable.Remove(path); err != nil {
			return err
		}
	}
	if err := j.removeSums(); err != nil {
		return err
	}
	for _, path := range j.Folders {
		if err := os.RemoveAll(path); err != nil {
			return fmt.Errorf("remove folder: %w", err)
		}
	}
	if j.Tier == backstay.SnapshotTier {
		if err := h.tier.RemoveVM(j.VM, j.Job); err != nil {
			return err
		}
	}
	if err := h.dropSecrets(ctx, j.Job, j.noted()); err != nil {
		return err
	}
	return j.remove()
}

// Abandon removes everything that a restore made, in whatever state it is: the
// VM if it was this restore that defined it, then its files. What the journal
// does not name is left alone.
func (h *Host) Abandon(ctx context.Context, r mover.StageRequest) error {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return restoreError(ctx, r.Plan, err)
	}
	if j == nil {
		return nil
	}
	if err := j.of(r.Plan); err != nil {
		return err
	}
	if err := h.abandon(ctx, j); err != nil {
		return h.hostError(err, "what the restore of %s made could not be removed", j.Name)
	}
	return nil
}

func (h *Host) abandon(ctx context.Context, j *restoreJournal) error {
	if !j.Abandoned {
		j.Abandoned = true
		if err := j.write(); err != nil {
			return err
		}
	}
	if j.Defining {
		if err := h.unmake(ctx, j); err != nil {
			return err
		}
	}
	return h.discard(ctx, j)
}

// sweepRestores ends the restores whose job will not go on: what was to go goes,
// what was written half goes, and what is complete stays and is no longer ours
// to remove. It returns the files that it removed.
func (h *Host) sweepRestores(ctx context.Context, live []backstay.JobID) (removed []string, err error) {
	paths, err := filepath.Glob(filepath.Join(h.journalFolder(), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list restore journals: %w", err)
	}
	var failed []error
	for _, path := range paths {
		files, err := h.sweepRestore(ctx, path, live)
		removed = append(removed, files...)
		failed = append(failed, err)
	}
	return removed, errors.Join(failed...)
}

func (h *Host) sweepRestore(ctx context.Context, path string, live []backstay.JobID) ([]string, error) {
	job := backstay.JobID(strings.TrimSuffix(filepath.Base(path), ".json"))
	if slices.Contains(live, job) {
		return nil, nil
	}
	unlock, err := h.lockRestore(ctx, job)
	if err != nil {
		return nil, err
	}
	defer unlock()
	j, err := readJournal(path)
	if err != nil || j == nil {
		return nil, err
	}
	if j.Drill != "" && slices.Contains(live, j.Drill) {
		return nil, nil
	}
	if j.Staged != nil && !j.Abandoned && j.Drill == "" {
		if j.Live != nil {
			return nil, nil // its VM needs the export until its disks were copied in
		}
		return nil, errors.Join(j.removeSums(), h.keepForUndo(j))
	}
	if j.Left != nil && !j.Abandoned && j.Drill == "" && h.now().Sub(*j.Left) < leftFor {
		return nil, nil // a retry goes on from it
	}
	files := slices.DeleteFunc(slices.Clone(j.Files), func(p string) bool { return !exists(p) })
	return files, h.abandon(ctx, j)
}

// staging lists the jobs whose restore has not written all its disks.
func (h *Host) staging() (jobs []backstay.JobID, err error) {
	paths, err := filepath.Glob(filepath.Join(h.journalFolder(), "*.json"))
	if err != nil {
		return nil, fmt.Errorf("list restore journals: %w", err)
	}
	for _, path := range paths {
		j, err := readJournal(path)
		if err != nil {
			return nil, err
		}
		if j != nil && j.Staged == nil {
			jobs = append(jobs, j.Job)
		}
	}
	return jobs, nil
}

// unmake ends and undefines the VM that a restore made. A VM of that UUID which
// stands on none of its files is somebody else's.
func (h *Host) unmake(ctx context.Context, j *restoreJournal) error {
	ours, err := h.made(ctx, j)
	if err != nil || !ours {
		return err
	}
	if err := h.hv.Destroy(ctx, j.VM); err != nil {
		return fmt.Errorf("end VM: %w", err)
	}
	if err := h.hv.Undefine(ctx, j.VM); err != nil {
		return fmt.Errorf("undefine VM: %w", err)
	}
	return nil
}

// made tells whether the VM that a restore was to make is there.
func (h *Host) made(ctx context.Context, j *restoreJournal) (bool, error) {
	domain, err := h.hv.Domain(ctx, j.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return false, nil
	}
	if err != nil {
		return false, fmt.Errorf("look for VM: %w", err)
	}
	for _, path := range slices.Concat(j.Files, j.Devices) {
		if domainUses(&domain, path) {
			return true, nil
		}
	}
	return false, nil
}

// restoreError gives an error of a restore its code, unless it has one.
func restoreError(ctx context.Context, plan backstay.RestorePlan, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("restore point %s: %w", plan.Point, errors.Join(context.Cause(ctx), err))
	}
	var coded *backstay.Error
	switch {
	case errors.As(err, &coded):
		return err
	case errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT):
		return backstay.Errorf(backstay.CodeNoSpace, "no room for the disks of %s", plan.Name).Because(err)
	case errors.Is(err, hypervisor.ErrExists):
		return backstay.Errorf(backstay.CodePreflight, "a file of %s exists already", plan.Name).Because(err).
			Do("move it away, or choose another --name or --pool")
	case errors.Is(err, hypervisor.ErrAway):
		return backstay.Errorf(backstay.CodeHostAway, "the restore of %s was cut off", plan.Name).Because(err)
	}
	return backstay.Errorf(vaultCode(err, backstay.CodeRestoreFailed), "point %s could not be restored as %s", plan.Point, plan.Name).Because(err)
}
