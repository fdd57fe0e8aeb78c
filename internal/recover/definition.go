package recover

import (
	"encoding/json"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"text/template"
	"time"

	"github.com/beevik/etree"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// The files beside the disks. All but the README may hold secrets.
const (
	fileVM       = "vm.xml"          // ready to be defined: its disks are the restored files
	fileCaptured = "vm-captured.xml" // as it was captured
	fileNVRAM    = "nvram"           // firmware variables
	folderTPM    = "tpm"             // the emulated TPM's state
	fileFacts    = "point.json"      // what the point says of itself
	fileReadme   = "README.txt"
)

var definitionNames = []string{fileVM, fileCaptured, fileNVRAM, folderTPM, fileFacts, fileReadme}

// describe writes what makes a VM of the disks, and says how.
func (r *restore) describe() error {
	def := r.point.Definition()
	captured := def.InactiveXML
	if captured == "" {
		captured = def.LiveXML
	}
	var files []textFile
	if captured != "" {
		files = append(files, textFile{fileCaptured, []byte(captured)})
		edited, warnings, err := r.edit(captured, def)
		if err != nil {
			warnings = append(warnings, fmt.Sprintf("there is no %s, because the captured definition cannot be edited: %v", fileVM, err))
		} else {
			files = append(files, textFile{fileVM, edited})
		}
		r.out.Warnings = append(r.out.Warnings, warnings...)
	}
	if len(def.NVRAM) > 0 {
		files = append(files, textFile{fileNVRAM, def.NVRAM})
	}
	facts, err := json.MarshalIndent(r.out.Point, "", "  ")
	if err != nil {
		return fmt.Errorf("encode the point: %w", err)
	}
	files = append(files, textFile{fileFacts, append(facts, '\n')})
	tpm, err := r.tpmFiles(def)
	if err != nil {
		return err
	}
	files = append(files, tpm...)
	readme, err := r.readme(def, captured != "")
	if err != nil {
		return err
	}
	for _, f := range append(files, textFile{fileReadme, readme}) {
		path := filepath.Join(r.dir, f.name)
		if err := writeFile(path, f.data); err != nil {
			return diskError(path, err)
		}
		r.out.Files = append(r.out.Files, path)
	}
	return nil
}

type textFile struct {
	name string
	data []byte
}

// tpmFiles names the files of the TPM's state, each within its folder.
func (r *restore) tpmFiles(def tier.Definition) ([]textFile, error) {
	var files []textFile
	for name, data := range def.TPM {
		if !filepath.IsLocal(name) {
			return nil, backstay.Errorf(backstay.CodeDamaged, "the point's TPM state names a file outside of it").Becausef("%q", name)
		}
		file := textFile{filepath.Join(folderTPM, name), data}
		if err := os.MkdirAll(filepath.Dir(filepath.Join(r.dir, file.name)), 0o700); err != nil {
			return nil, fmt.Errorf("make the folder of the TPM state: %w", err)
		}
		files = append(files, file)
	}
	slices.SortFunc(files, func(a, b textFile) int { return strings.Compare(a.name, b.name) })
	return files, nil
}

// edit makes the definition use the restored files. Name, UUID and addresses stay
// those of the source: this is for the day on which there is no source any more.
func (r *restore) edit(captured string, def tier.Definition) (edited []byte, warnings []string, err error) {
	doc := etree.NewDocument()
	if err := doc.ReadFromString(captured); err != nil {
		return nil, nil, err
	}
	root := doc.SelectElement("domain")
	if root == nil {
		return nil, nil, fmt.Errorf("it has no domain")
	}
	root.RemoveAttr("id") // notes of a run
	if devices := root.SelectElement("devices"); devices != nil {
		for _, d := range devices.SelectElements("disk") {
			if w := r.editDisk(devices, d); w != "" {
				warnings = append(warnings, w)
			}
		}
	}
	if system := root.SelectElement("os"); system != nil && len(def.NVRAM) > 0 {
		nvram := system.SelectElement("nvram")
		if nvram == nil {
			nvram = system.CreateElement("nvram")
		}
		nvram.RemoveAttr("type")
		nvram.Child = nil
		nvram.SetText(filepath.Join(r.dir, fileNVRAM))
	}
	edited, err = doc.WriteToBytes()
	return edited, warnings, err
}

// editDisk gives a disk its restored file. One that was not restored is left out,
// a drive for media stays and is empty.
func (r *restore) editDisk(devices, d *etree.Element) (warning string) {
	var target backstay.DiskTarget
	if t := d.SelectElement("target"); t != nil {
		target = backstay.DiskTarget(t.SelectAttrValue("dev", ""))
	}
	for _, tag := range []string{"backingStore", "mirror", "auth", "encryption"} {
		for _, old := range d.SelectElements(tag) {
			d.RemoveChild(old)
		}
	}
	at := slices.IndexFunc(r.disks, func(p *plannedDisk) bool { return p.target == target })
	if at < 0 {
		if device := d.SelectAttrValue("device", "disk"); device != "cdrom" && device != "floppy" {
			devices.RemoveChild(d)
			return fmt.Sprintf("disk %s is not among the restored ones and is left out of %s", target, fileVM)
		}
		if source := d.SelectElement("source"); source != nil {
			d.RemoveChild(source)
		}
		d.CreateAttr("type", "file")
		return ""
	}
	d.CreateAttr("type", "file")
	if d.SelectAttrValue("device", "disk") == "lun" {
		d.CreateAttr("device", "disk")
	}
	d.RemoveAttr("rawio")
	d.RemoveAttr("sgio")
	driver := d.SelectElement("driver")
	if driver == nil {
		driver = d.CreateElement("driver")
		driver.CreateAttr("name", "qemu")
	}
	driver.CreateAttr("type", r.o.Format)
	if r.o.Format != Qcow2 {
		for _, cache := range driver.SelectElements("metadata_cache") {
			driver.RemoveChild(cache)
		}
		driver.RemoveAttr("discard_no_unref")
	}
	source := d.SelectElement("source")
	if source == nil {
		source = d.CreateElement("source")
	}
	source.Child, source.Attr = nil, nil
	source.CreateAttr("file", r.disks[at].path)
	return ""
}

var readme = template.Must(template.New("readme").Parse(`{{.Point.VM.Name}}, as it was at {{.Time}}
{{.Line}}

Written by "backstay recover restore" from the recovery point
{{.Point.ID}} of the vault {{.Point.Vault}}.

Consistency: {{.Point.Consistency}}{{with .Point.ConsistencyReason}} ({{.}}){{end}}

Files
{{range .Disks}}
  {{.Name}}
      disk {{.Target}}, {{.Size}} bytes, format {{.Format}}
{{end}}{{if .Defined}}
  vm.xml
      definition of the VM that uses the disks where they are now
  vm-captured.xml
      definition as it was captured
{{end}}{{if .NVRAM}}
  nvram
      firmware variables
{{end}}{{if .TPM}}
  tpm/
      state of the emulated TPM
{{end}}
  point.json
      what the recovery point says of itself

Everything but this text may hold secrets, and can be read by its owner alone.

{{if .Defined}}To run the VM again

   Move the files to where they shall stay. If that is not this folder,
   change the paths in vm.xml. QEMU must be able to read them there: a
   folder below a home usually does not serve, /var/lib/libvirt/images does.
{{if .TPM}}
   As root, before the VM is started for the first time, put the TPM's state
   where libvirt keeps it:

     install -d -m 0711 /var/lib/libvirt/swtpm/{{.Point.VM.UUID}}
     cp -r tpm/. /var/lib/libvirt/swtpm/{{.Point.VM.UUID}}/
     chown -R tss:tss /var/lib/libvirt/swtpm/{{.Point.VM.UUID}}

   (The owner is the user under which swtpm runs: tss on Debian.)
{{end}}
   virsh define vm.xml
   virsh start {{.Point.VM.Name}}

   The VM has the name, the UUID and the network addresses of its source. If the
   source still runs somewhere, change them, or do not connect the two.
{{else}}The point holds no definition: make a VM with these disks.
{{end}}`))

// readme says what the files are and how a VM is made of them.
func (r *restore) readme(def tier.Definition, defined bool) ([]byte, error) {
	type disk struct {
		Name, Target, Format string
		Size                 int64
	}
	p := r.out.Point
	about := struct {
		Point               Point
		Time, Line          string
		Disks               []disk
		Defined, NVRAM, TPM bool
	}{Point: p, Time: p.Time.UTC().Format(time.RFC3339), Defined: defined, NVRAM: len(def.NVRAM) > 0, TPM: len(def.TPM) > 0}
	about.Line = strings.Repeat("=", len(p.VM.Name)+len(", as it was at ")+len(about.Time))
	for _, d := range r.disks {
		about.Disks = append(about.Disks, disk{filepath.Base(d.path), string(d.target), r.o.Format, d.image.Size()})
	}
	var text strings.Builder
	if err := readme.Execute(&text, about); err != nil {
		return nil, fmt.Errorf("write the README: %w", err)
	}
	return []byte(text.String()), nil
}
