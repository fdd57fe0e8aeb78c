package host

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"time"

	"github.com/beevik/etree"
	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/deploy"
	"github.com/backstay/backstay/internal/durable"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

// The names of what lies beside restored disks.
const (
	manifestName   = "manifest.json"
	parametersName = "parameters.json"
	templateName   = "template.xml"
	definitionName = "domain.xml"
	capturedName   = "captured.xml"
	readmeName     = "README.txt"
	// nvramName is what a VM of the folder uses; nvramOriginal is as it was captured,
	// for the next VM.
	nvramName     = "nvram.fd"
	nvramOriginal = "nvram-captured.fd"
	tpmName       = "tpm"
)

// manifestVersion is that of manifest.json.
const manifestVersion = 1

// manifest says what a folder of restored disks is.
type manifest struct {
	Version int              `json:"version"`
	Job     backstay.JobID   `json:"job"`
	Point   backstay.PointID `json:"point"`
	Source  backstay.VMRef   `json:"source"`
	Tier    backstay.Tier    `json:"tier"`
	Written time.Time        `json:"written"`
	Disks   []manifestDisk   `json:"disks"`
	// Notes say what of the source could not be kept.
	Notes []string `json:"notes,omitempty"`
	// Masked are the fields of captured.xml that held a secret.
	Masked []string `json:"masked,omitempty"`
}

// manifestDisk is one restored disk. SHA256 is of its content as a guest sees it,
// not of the file.
type manifestDisk struct {
	Target backstay.DiskTarget `json:"target"`
	Path   string              `json:"path"`
	Format string              `json:"format"`
	Size   int64               `json:"size"`
	SHA256 string              `json:"sha256,omitempty"`
}

// templateFolder is where a restore's template goes: its folder, or one beside
// the disks of a VM that could not be created.
func templateFolder(plan backstay.RestorePlan) string {
	if plan.Folder != "" || len(plan.Disks) == 0 {
		return plan.Folder
	}
	return filepath.Join(filepath.Dir(plan.Disks[0].Path), plan.Name+"-deploy")
}

// Template writes all that a VM can be made of beside the disks.
func (h *Host) Template(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Templated, error) {
	unlock, err := h.lockRestore(ctx, r.Job)
	if err != nil {
		return mover.Templated{}, err
	}
	defer unlock()
	t, err := h.template(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Templated{}, restoreError(ctx, r.Plan, fmt.Errorf("write the template: %w", err))
	}
	return t, nil
}

func (h *Host) template(ctx context.Context, r mover.StageRequest, progress mover.Progress) (mover.Templated, error) {
	j, err := h.loadJournal(r.Job)
	if err != nil {
		return mover.Templated{}, err
	}
	if j == nil || j.Staged == nil {
		return mover.Templated{}, errors.New("its disks are not complete")
	}
	if err := j.of(r.Plan); err != nil {
		return mover.Templated{}, err
	}
	point, err := h.definitionOf(ctx, r)
	if err != nil {
		return mover.Templated{}, err
	}
	m, err := h.manifestOf(ctx, r, progress)
	if err != nil {
		return mover.Templated{}, err
	}
	files, err := templateFiles(point, r.Plan, &m)
	if err != nil {
		return mover.Templated{}, err
	}
	if r.Plan.Kind == backstay.RestoreDisks {
		j.Until = h.undoUntil()
	}
	if err := placeTemplate(j, templateFolder(r.Plan), files); err != nil {
		return mover.Templated{}, err
	}
	t := mover.Templated{Warnings: m.Notes}
	if !j.Until.IsZero() {
		t.Until = &j.Until
	}
	for _, name := range slices.Sorted(maps.Keys(files)) {
		t.Files = append(t.Files, filepath.Join(templateFolder(r.Plan), name))
	}
	return t, nil
}

// undoUntil is until when what is made now can be taken back.
func (h *Host) undoUntil() time.Time {
	return h.now().UTC().Add(time.Duration(backstay.DefaultKeepOld)).Truncate(time.Second)
}

// manifestOf reads the disks as they lie there: what is said of them is what was
// checked.
func (h *Host) manifestOf(ctx context.Context, r mover.StageRequest, progress mover.Progress) (manifest, error) {
	m := manifest{
		Version: manifestVersion, Job: r.Job, Point: r.Plan.Point, Source: r.Plan.Source, Tier: r.Plan.Tier,
		Written: h.now().UTC().Truncate(time.Second),
	}
	var total, done int64
	for _, d := range r.Plan.Disks {
		total += d.Size
	}
	for _, d := range r.Plan.Disks {
		disk := manifestDisk{Target: d.Target, Path: d.Path, Format: d.Format, Size: d.Size}
		if r.Plan.Kind == backstay.RestoreDisks {
			err := h.showDisk(ctx, d, func(image tier.Image) error {
				_, sum, err := hashDisk(ctx, verifyDisk{d.Target, d.Size}, func(context.Context, backstay.DiskTarget) (tier.Image, error) { return image, nil },
					func(n int64) {
						done += n
						progress(mover.Report{Phase: "template", Done: done, Total: total})
					})
				disk.SHA256 = sum
				return err
			})
			if err != nil {
				return m, fmt.Errorf("read disk %s: %w", d.Target, err)
			}
		}
		m.Disks = append(m.Disks, disk)
	}
	return m, nil
}

// showDisk calls fn with the content of a written disk.
func (h *Host) showDisk(ctx context.Context, d backstay.PlannedDisk, fn func(tier.Image) error) error {
	w := &writtenDisk{images: h.images, plan: d}
	return w.connect(ctx, false, func(client *nbd.Client) error {
		return fn(plannedDisk{&localDisk{ctx: ctx, client: client, read: new(atomic.Int64)}, d.Size})
	})
}

// plannedDisk is the begin of a device, or all of a file.
type plannedDisk struct {
	*localDisk
	size int64
}

func (d plannedDisk) Size() int64 { return d.size }

// templateFiles makes all files, by their names in the folder.
func templateFiles(point tier.Definition, plan backstay.RestorePlan, m *manifest) (map[string][]byte, error) {
	files := map[string][]byte{}
	captured := point.InactiveXML
	if captured == "" {
		captured = point.LiveXML
	}
	shown, masked, err := deploy.Mask(captured)
	if err != nil {
		return nil, err
	}
	files[capturedName], m.Masked = []byte(shown), masked
	if why := noDefinition(plan); why != "" {
		m.Notes = append(m.Notes, why)
	} else if err := definitionFiles(point, plan, m, files); err != nil {
		return nil, err
	}
	if len(point.NVRAM) > 0 {
		files[nvramName], files[nvramOriginal] = point.NVRAM, point.NVRAM
	}
	for name, content := range tpmFiles(point) {
		files[filepath.Join(tpmName, name)] = content
	}
	files[readmeName] = []byte(readme(plan, m, len(point.NVRAM) > 0, len(point.TPM) > 0))
	data, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return nil, fmt.Errorf("encode the manifest: %w", err)
	}
	files[manifestName] = append(data, '\n')
	return files, nil
}

// noDefinition says why no VM of this host can use the disks as they are.
func noDefinition(plan backstay.RestorePlan) string {
	for _, d := range plan.Disks {
		if d.Format != "qcow2" && d.Format != "raw" {
			return fmt.Sprintf("there is no definition and no template: disks of the format %s are for other hypervisors", d.Format)
		}
	}
	return ""
}

func definitionFiles(point tier.Definition, plan backstay.RestorePlan, m *manifest, files map[string][]byte) error {
	d, err := newVMDefinition(point, plan, definitionOptions{GenID: uuid.NewString(), FolderExists: folderExists})
	if err != nil {
		return err
	}
	text := d.XML
	if d.NVRAM != "" {
		if text, err = withNVRAM(text, filepath.Join(templateFolder(plan), nvramName)); err != nil {
			return err
		}
	}
	var disks []deploy.Disk
	for _, p := range plan.Disks {
		disks = append(disks, deploy.Disk{Target: p.Target, Path: p.Path})
	}
	t, err := deploy.New(text, disks)
	if err != nil {
		return err
	}
	_, values, err := deploy.Choose(t.Parameters, nil)
	if err != nil {
		return err
	}
	if text, err = deploy.Render(t.XML, values); err != nil {
		return err
	}
	files[definitionName], files[templateName] = []byte(text), []byte(t.XML)
	if files[parametersName], err = deploy.EncodeParameters(t.Parameters); err != nil {
		return err
	}
	tofu, err := deploy.Tofu(t)
	if err != nil {
		return err
	}
	maps.Copy(files, tofu)
	m.Notes = append(m.Notes, d.Warnings...)
	if point.Autostart {
		m.Notes = append(m.Notes, "a VM of the template does not start with its host, as its source did, unless autostart is set")
	}
	return nil
}

// withNVRAM lets a definition use another file of firmware variables.
func withNVRAM(definition, path string) (string, error) {
	doc := etree.NewDocument()
	doc.ReadSettings.PreserveCData = true
	doc.WriteSettings.AttrSingleQuote = true
	if err := doc.ReadFromString(definition); err != nil {
		return "", fmt.Errorf("read the definition: %w", err)
	}
	e := doc.FindElement("/domain/os/nvram")
	if e == nil {
		return "", errors.New("the definition names no file of firmware variables")
	}
	e.SetText(path)
	return doc.WriteToString()
}

// tpmFiles are the TPM's state by the names that libvirt gives them below its
// folder of the VM.
func tpmFiles(point tier.Definition) map[string][]byte {
	files := map[string][]byte{}
	for name, content := range point.TPM {
		if !filepath.IsLocal(name) {
			continue // made by nobody that we know
		}
		if !strings.Contains(name, "/") {
			name = filepath.Join("tpm2", name)
		}
		files[name] = content
	}
	return files
}

// placeTemplate writes the files, after the journal names them. All are for root
// alone: they hold what the definition holds, passwords of displays included.
func placeTemplate(j *restoreJournal, folder string, files map[string][]byte) error {
	if !exists(folder) {
		j.Folders = append(j.Folders, folder)
	}
	for name := range files {
		path := filepath.Join(folder, name)
		if !slices.Contains(j.Files, path) && exists(path) && !slices.ContainsFunc(j.Folders, func(f string) bool { return strings.HasPrefix(path, f+"/") }) {
			return fmt.Errorf("%s is there already: %w", path, hypervisor.ErrExists)
		}
		j.add(path)
	}
	if tpm := filepath.Join(folder, tpmName); !slices.Contains(j.Folders, tpm) {
		j.Folders = append(j.Folders, tpm)
	}
	if err := j.write(); err != nil {
		return err
	}
	if err := os.Mkdir(folder, folderMode); err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("make folder of the template: %w", err)
	}
	for name, content := range files {
		path := filepath.Join(folder, name)
		if err := os.MkdirAll(filepath.Dir(path), 0o700); err != nil {
			return fmt.Errorf("make folder: %w", err)
		}
		if err := durable.WriteFile(path, content); err != nil {
			return fmt.Errorf("write %s: %w", name, err)
		}
	}
	return durable.Sync(filepath.Dir(folder))
}

func readme(plan backstay.RestorePlan, m *manifest, nvram, tpm bool) string {
	folder := templateFolder(plan)
	var b strings.Builder
	fmt.Fprintf(&b, "Disks of the VM %s, as of its recovery point %s\n\n", m.Source.Name, m.Point)
	for _, d := range m.Disks {
		fmt.Fprintf(&b, "  %-6s %s  %s, %d bytes\n", d.Target, d.Path, d.Format, d.Size)
	}
	b.WriteString("\nmanifest.json has the SHA-256 of each disk's content. captured.xml is the VM's\ndefinition as it was captured, for reading: what may be a secret is masked in it.\n")
	if noDefinition(plan) == "" {
		fmt.Fprintf(&b, "\nTo make a VM of them, do one of these. No vault is needed.\n\n"+
			"  With backstay: choose values in %s, or with --set:\n\n"+
			"    backstay deploy %s --dry-run\n    backstay deploy %s --set name=NAME --set memory=4GiB\n\n"+
			"  With libvirt alone:\n\n", parametersName, folder, folder)
		if tpm {
			fmt.Fprintf(&b, "    cp -a %s %s\n    chown -R tss:tss %s    # whom swtpm runs as on this host\n",
				filepath.Join(folder, tpmName), filepath.Join(tpmFolder, string(plan.UUID)), filepath.Join(tpmFolder, string(plan.UUID)))
		}
		fmt.Fprintf(&b, "    virsh define %s\n    virsh start %s\n", filepath.Join(folder, definitionName), plan.Name)
		if nvram {
			fmt.Fprintf(&b, "\n    The VM keeps its firmware variables in %s. `virsh undefine --nvram`\n    removes that file; before the next define, copy %s there.\n", nvramName, nvramOriginal)
		}
		fmt.Fprintf(&b, "\n  With OpenTofu or Terraform, and the provider dmacvicar/libvirt %s, which needs\n  xsltproc; the values are in variables.tf:\n\n    tofu init && tofu apply\n", deploy.TofuProvider)
		if tpm {
			b.WriteString("\n    The TPM's state is put in place as for libvirt alone, before.\n")
		}
	}
	for _, n := range m.Notes {
		fmt.Fprintf(&b, "\nNote: %s.\n", n)
	}
	fmt.Fprintf(&b, "\nTo remove all of it: backstay restore undo %s\n", m.Job)
	return b.String()
}
