package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/deploy"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

// deployable is a folder that was read, with values chosen.
type deployable struct {
	manifest   manifest
	parameters []backstay.Parameter
	values     map[string]string
	xml        string
	shape      backstay.VM
}

// Describe tells what a folder would make with the values.
func (h *Host) Describe(ctx context.Context, r mover.DeployRequest) (backstay.Deployment, error) {
	d, err := readDeployable(r.Folder, r.Set)
	if err != nil {
		return backstay.Deployment{}, err
	}
	captured, err := os.ReadFile(filepath.Join(r.Folder, capturedName))
	if err != nil {
		return backstay.Deployment{}, noTemplate(r.Folder, err)
	}
	shown, _, err := deploy.Mask(d.xml)
	if err != nil {
		return backstay.Deployment{}, noTemplate(r.Folder, err)
	}
	differences, err := diffXML(string(captured), shown)
	if err != nil {
		return backstay.Deployment{}, noTemplate(r.Folder, err)
	}
	out := backstay.Deployment{
		Folder: r.Folder, Point: d.manifest.Point, Source: d.manifest.Source, Shape: d.shape, Parameters: d.parameters,
		Start: d.values["start"] == "true", Autostart: d.values["autostart"] == "true", Differences: differences,
		Problems: h.diskProblems(ctx, d),
	}
	out.AntiAffinityGroup, out.HostGroup = deploy.Placement(d.xml)
	return out, nil
}

func readDeployable(folder string, set map[string]string) (deployable, error) {
	var d deployable
	if !filepath.IsAbs(folder) {
		return d, backstay.Errorf(backstay.CodeUsage, "%q is not an absolute path", folder).Becausef("the folder is on the host").Do("give the whole path")
	}
	data, err := os.ReadFile(filepath.Join(folder, manifestName))
	if err == nil {
		err = json.Unmarshal(data, &d.manifest)
	}
	if err == nil && d.manifest.Version != manifestVersion {
		err = fmt.Errorf("its manifest has version %d, and this backstay knows %d", d.manifest.Version, manifestVersion)
	}
	if err != nil {
		return d, noTemplate(folder, err)
	}
	if data, err = os.ReadFile(filepath.Join(folder, parametersName)); err != nil {
		return d, noTemplate(folder, err)
	}
	parameters, err := deploy.DecodeParameters(data)
	if err != nil {
		return d, backstay.Errorf(backstay.CodeUsage, "%s cannot be read", filepath.Join(folder, parametersName)).Because(err).Do("correct the file; nothing was touched")
	}
	if d.parameters, d.values, err = deploy.Choose(parameters, set); err != nil {
		return d, err
	}
	if data, err = os.ReadFile(filepath.Join(folder, templateName)); err != nil {
		return d, noTemplate(folder, err)
	}
	if d.xml, err = deploy.Render(string(data), d.values); err != nil {
		return d, noTemplate(folder, err)
	}
	d.shape, err = deploy.Shape(d.xml)
	return d, err
}

func noTemplate(folder string, err error) error {
	return backstay.Errorf(backstay.CodeNoTemplate, "no VM can be made of what is in %s", folder).Because(err)
}

// disks are the restored disks where the values say that they are.
func (d *deployable) disks() []manifestDisk {
	var disks []manifestDisk
	for _, m := range d.manifest.Disks {
		for _, s := range d.shape.Disks {
			if s.Target == m.Target {
				m.Path, m.Format = s.Source, s.Format
				disks = append(disks, m)
			}
		}
	}
	return disks
}

// diskProblems says which disks are not there, or not what they were.
func (h *Host) diskProblems(ctx context.Context, d deployable) []string {
	problems := []string{}
	for _, m := range d.disks() {
		info, err := h.images.Info(ctx, m.Path)
		switch {
		case errors.Is(err, fs.ErrNotExist) || !exists(m.Path):
			problems = append(problems, fmt.Sprintf("disk %s is not at %s", m.Target, m.Path))
		case isDevice(m.Path):
			if size, _ := lookAtDevice(m.Path); size < m.Size {
				problems = append(problems, fmt.Sprintf("disk %s at %s has %d bytes, and was restored with %d", m.Target, m.Path, size, m.Size))
			}
		case err != nil:
			problems = append(problems, fmt.Sprintf("disk %s at %s cannot be looked at: %v", m.Target, m.Path, err))
		case m.Format != "raw" && info.Format != m.Format: // a raw disk may look like anything
			problems = append(problems, fmt.Sprintf("disk %s at %s is %s, and not %s", m.Target, m.Path, info.Format, m.Format))
		case m.Format != "raw" && info.VirtualSize < m.Size:
			problems = append(problems, fmt.Sprintf("disk %s at %s has %d bytes, and was restored with %d", m.Target, m.Path, info.VirtualSize, m.Size))
		}
	}
	return problems
}

// Deploy defines the VM of a plan.
func (h *Host) Deploy(ctx context.Context, r mover.DeployRequest) error {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return err
	}
	defer unlock()
	err = h.deploy(ctx, r)
	var coded *backstay.Error
	if err == nil || errors.As(err, &coded) {
		return err
	}
	if ctx.Err() != nil {
		return fmt.Errorf("deploy VM %s: %w", r.Plan.Name, errors.Join(context.Cause(ctx), err))
	}
	return backstay.Errorf(backstay.CodeDeployFailed, "VM %s could not be made of the disks in %s", r.Plan.Name, r.Folder).Because(err)
}

func (h *Host) deploy(ctx context.Context, r mover.DeployRequest) error {
	d, err := readDeployable(r.Folder, r.Set)
	if err != nil {
		return err
	}
	if err := d.of(r.Plan); err != nil {
		return err
	}
	request := mover.StageRequest{Job: r.Job, Plan: r.Plan}
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return err
	}
	if j == nil {
		if j, err = h.newJournal(request); err != nil {
			return err
		}
		for _, disk := range r.Plan.Disks {
			j.Devices = append(j.Devices, disk.Path)
		}
		if err := j.write(); err != nil {
			return err
		}
	}
	if err := j.of(r.Plan); err != nil {
		return err
	}
	done, err := h.definedBefore(ctx, j)
	if err == nil && !done {
		err = h.deployNew(ctx, r.Folder, d, j)
	}
	if err == nil {
		err = h.hv.SetAutostart(ctx, r.Plan.UUID, d.values["autostart"] == "true")
	}
	if err == nil {
		j.Staged, j.Until = &mover.Staged{}, h.undoUntil() // from here on the VM is its owner's
		err = j.write()
	}
	if err != nil {
		return errors.Join(err, h.abandon(context.WithoutCancel(ctx), j))
	}
	return nil
}

// of sees that the folder makes what the plan says: somebody may have edited it
// since.
func (d *deployable) of(plan backstay.RestorePlan) error {
	same := d.shape.ID == plan.UUID && d.shape.Name == plan.Name
	disks := d.disks()
	same = same && len(disks) == len(plan.Disks)
	for i := range disks {
		same = same && disks[i].Path == plan.Disks[i].Path
	}
	if same {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "what is in the folder is not what was planned").
		Becausef("its parameters were edited since").Do("deploy again")
}

func (h *Host) deployNew(ctx context.Context, folder string, d deployable, j *restoreJournal) error {
	c := companions{files: map[string][]byte{}, tpm: map[string][]byte{}}
	if nvram := d.values["nvram"]; nvram != "" && !exists(nvram) {
		content, err := os.ReadFile(filepath.Join(folder, nvramOriginal))
		if err != nil {
			return fmt.Errorf("read the firmware variables: %w", err)
		}
		c.files[nvram] = content
	}
	if d.shape.TPM {
		state, err := readTPM(filepath.Join(folder, tpmName))
		if err != nil {
			return err
		}
		for name, content := range state {
			c.folder = filepath.Join(tpmFolder, string(d.shape.ID))
			c.tpm[filepath.Join(c.folder, name)] = content
		}
	}
	if err := c.place(j); err != nil {
		return err
	}
	return h.makeVM(ctx, j, d.xml)
}

func readTPM(folder string) (map[string][]byte, error) {
	state := map[string][]byte{}
	err := filepath.WalkDir(folder, func(path string, e fs.DirEntry, err error) error {
		if err != nil || e.IsDir() {
			return err
		}
		name, err := filepath.Rel(folder, path)
		if err != nil {
			return err
		}
		state[name], err = os.ReadFile(path)
		return err
	})
	if errors.Is(err, fs.ErrNotExist) {
		return nil, nil // none was captured
	}
	if err != nil {
		return nil, fmt.Errorf("read the TPM's state: %w", err)
	}
	return tpmFiles(tier.Definition{TPM: state}), nil
}
