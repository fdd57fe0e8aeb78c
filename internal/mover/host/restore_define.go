package host

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/user"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
)

// Define puts the firmware variables and the TPM's state in place and defines
// the VM. On error the disks stay and everything else goes. It is done already
// if an earlier call of the same restore defined the VM.
func (h *Host) Define(ctx context.Context, r mover.StageRequest) (mover.Defined, error) {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return mover.Defined{}, err
	}
	defer unlock()
	var defined mover.Defined
	if err := h.define(ctx, r, &defined); err != nil {
		return mover.Defined{}, defineError(ctx, r.Plan, err)
	}
	return defined, nil
}

func (h *Host) define(ctx context.Context, r mover.StageRequest, defined *mover.Defined) error {
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return err
	}
	if j == nil || j.Staged == nil {
		return errors.New("its disks are not complete")
	}
	if err := j.of(r.Plan); err != nil {
		return err
	}
	if done, err := h.definedBefore(ctx, j); done || err != nil {
		return err
	}
	held, err := h.heldOf(ctx, r)
	if err != nil {
		return err
	}
	point := held.definition
	d, err := newVMDefinition(point, r.Plan, definitionOptions{GenID: uuid.NewString(), FolderExists: folderExists, FileExists: exists, Below: below(held.layers)})
	if err != nil {
		return err
	}
	if point.Autostart {
		// Two VMs that come up together after a power cut are what nobody asked for.
		d.Warnings = append(d.Warnings, "it does not start with the host, as its source did: `virsh autostart "+r.Plan.Name+"` makes it")
	}
	defined.Warnings = d.Warnings
	for _, w := range d.Warnings {
		h.log.Warn("restored VM differs from its source", "vm", r.Plan.Name, "what", w)
	}
	if j.Live != nil {
		if d.XML, err = liveDefinition(d.XML, j.Live); err != nil {
			return err
		}
	}
	companions := companionsOf(point, r.Plan, d)
	defined.Warnings = append(defined.Warnings, companions.handOver(point, j)...)
	if err := companions.place(j); err != nil {
		return errors.Join(err, companions.remove(j))
	}
	err = h.makeVM(ctx, j, d.XML)
	if err != nil && !j.Defining {
		err = errors.Join(err, companions.remove(j))
	}
	return err
}

// definedBefore tells whether the VM is there by an earlier call of this
// restore. Somebody else's VM of that UUID is an error.
func (h *Host) definedBefore(ctx context.Context, j *restoreJournal) (bool, error) {
	domain, err := h.hv.Domain(ctx, j.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	if ours, err := h.made(ctx, j); err != nil || (ours && j.Defining) {
		return ours, err
	}
	return false, fmt.Errorf("UUID %s belongs to VM %s: %w", j.VM, domain.VM.Name, hypervisor.ErrExists)
}

// makeVM defines the VM; the journal says so first. j.Defining is false after
// an error if it is certain that the VM is not there.
func (h *Host) makeVM(ctx context.Context, j *restoreJournal, xml string) error {
	j.Defining = true
	if err := j.write(); err != nil {
		return err
	}
	_, err := h.hv.Define(ctx, xml)
	if err == nil {
		return nil
	}
	// Did it happen all the same, and only the answer was lost?
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), settleTime)
	defer cancel()
	ours, askErr := h.made(ctx, j)
	if askErr != nil {
		return errors.Join(err, askErr)
	}
	if ours {
		return nil
	}
	j.Defining = false
	return errors.Join(err, j.write())
}

// definitionOf returns what the point holds of its VM beside the disks.
func (h *Host) definitionOf(ctx context.Context, r mover.StageRequest) (tier.Definition, error) {
	held, err := h.heldOf(ctx, r)
	return held.definition, err
}

// defineError is CodeCreateVMFailed with the hypervisor's own words, whatever
// went wrong: the disks are complete, and the code is what keeps them.
func defineError(ctx context.Context, plan backstay.RestorePlan, err error) error {
	if ctx.Err() != nil {
		return fmt.Errorf("create VM %s: %w", plan.Name, errors.Join(context.Cause(ctx), err))
	}
	return backstay.Errorf(backstay.CodeCreateVMFailed, "VM %s could not be created from its disks", plan.Name).Because(err)
}

// below is what each overlay of a restore from the snapshot tier stands on, from
// the frozen layer down.
func below(layers []snapshot.PointLayers) map[backstay.DiskTarget][]hypervisor.Image {
	all := map[backstay.DiskTarget][]hypervisor.Image{}
	for _, l := range layers {
		for _, layer := range l.Chain {
			all[l.Target] = append(all[l.Target], hypervisor.Image{Location: layer.File, Format: layer.Format, Secret: layer.Secret})
		}
	}
	return all
}

func folderExists(path string) bool {
	info, err := os.Stat(path)
	return err == nil && info.IsDir()
}

// companions are the files that a VM has beside its disks.
type companions struct {
	files   map[string][]byte        // path → content
	folder  string                   // of the TPM's state; "" without one
	tpm     map[string][]byte        // path → content
	outputs []string                 // that the VM itself will make
	handed  map[string]tier.HostFile // those of files that the definition hands to the guest
}

func companionsOf(def tier.Definition, plan backstay.RestorePlan, d newDefinition) companions {
	c := companions{files: map[string][]byte{}, tpm: map[string][]byte{}, outputs: d.Outputs}
	if d.NVRAM != "" {
		c.files[d.NVRAM] = def.NVRAM
	}
	for name, content := range def.TPM {
		if !filepath.IsLocal(name) {
			continue // made by nobody that we know
		}
		if !strings.Contains(name, "/") { // of a folder that the owner chose for the files themselves
			name = filepath.Join("tpm2", name)
		}
		c.folder = filepath.Join(tpmFolder, string(plan.UUID))
		c.tpm[filepath.Join(c.folder, name)] = content
	}
	return c
}

// place writes the files, after the journal names them. A file that is there
// and not of this restore is somebody else's firmware or TPM.
func (c companions) place(j *restoreJournal) error {
	if err := c.claim(j); err != nil {
		return err
	}
	for path, content := range c.files {
		if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
			return fmt.Errorf("make folder of firmware variables: %w", err)
		}
		// 0600 root: libvirt gives it to the user that QEMU runs as.
		if err := durable.WriteFile(path, content); err != nil {
			return fmt.Errorf("write firmware variables: %w", err)
		}
		if err := c.asItWas(path); err != nil {
			return fmt.Errorf("give a file its owner: %w", err)
		}
	}
	if c.folder == "" {
		return nil
	}
	if err := c.placeTPM(); err != nil {
		return fmt.Errorf("write TPM state: %w", err)
	}
	return nil
}

func (c companions) claim(j *restoreJournal) error {
	for path := range c.files {
		if exists(path) && !slices.Contains(j.Files, path) {
			return fmt.Errorf("%s is there already, of a VM that had this name: %w", path, hypervisor.ErrExists)
		}
		j.add(path)
	}
	if c.folder != "" && !slices.Contains(j.Folders, c.folder) {
		if exists(c.folder) {
			return fmt.Errorf("%s is there already, of a VM that had this UUID: %w", c.folder, hypervisor.ErrExists)
		}
		j.Folders = append(j.Folders, c.folder)
	}
	for _, path := range c.outputs {
		if !exists(path) {
			j.add(path)
		}
	}
	return j.write()
}

// placeTPM writes the TPM's state so that the emulator, which has a user of its
// own, finds it as if it had made it.
func (c companions) placeTPM() error {
	uid, gid := tpmOwner(filepath.Dir(c.folder))
	if err := os.MkdirAll(c.folder, 0o711); err != nil {
		return err
	}
	if err := os.Chmod(c.folder, 0o711); err != nil { // whatever the umask
		return err
	}
	for path, content := range c.tpm {
		for dir := filepath.Dir(path); dir != c.folder; dir = filepath.Dir(dir) {
			if err := os.MkdirAll(dir, 0o700); err != nil {
				return err
			}
			if err := errors.Join(os.Chmod(dir, 0o700), os.Chown(dir, uid, gid)); err != nil {
				return err
			}
		}
		if err := durable.WriteFile(path, content); err != nil {
			return err
		}
		if err := os.Chown(path, uid, gid); err != nil {
			return err
		}
	}
	return durable.Sync(filepath.Dir(c.folder))
}

// tpmOwner finds the user that emulates TPMs on this host: the owner of the
// other VMs' state, else the one that the distributions give to it, else us.
func tpmOwner(folder string) (uid, gid int) {
	states, _ := filepath.Glob(filepath.Join(folder, "*", "tpm*"))
	for _, path := range states {
		var st syscall.Stat_t
		if err := syscall.Stat(path, &st); err == nil {
			return int(st.Uid), int(st.Gid)
		}
	}
	for _, name := range []string{"tss", "swtpm"} {
		u, err := user.Lookup(name)
		if err != nil {
			continue
		}
		uid, uidErr := strconv.Atoi(u.Uid)
		gid, gidErr := strconv.Atoi(u.Gid)
		if uidErr == nil && gidErr == nil && os.Geteuid() == 0 {
			return uid, gid
		}
	}
	return os.Geteuid(), os.Getegid()
}

// remove takes the files away again, when the VM could not be made, and out of
// the journal: the next VM of this name may put its own there.
func (c companions) remove(j *restoreJournal) error {
	for path := range c.files {
		if !slices.Contains(j.Files, path) {
			continue
		}
		if err := durable.Remove(path); err != nil {
			return err
		}
		j.Files = slices.DeleteFunc(j.Files, func(p string) bool { return p == path })
	}
	if c.folder != "" && slices.Contains(j.Folders, c.folder) {
		if err := os.RemoveAll(c.folder); err != nil {
			return fmt.Errorf("remove TPM state: %w", err)
		}
		j.Folders = slices.DeleteFunc(j.Folders, func(p string) bool { return p == c.folder })
	}
	j.Files = slices.DeleteFunc(j.Files, func(p string) bool { return slices.Contains(c.outputs, p) })
	return j.write()
}
