package host

import (
	"flag"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

var update = flag.Bool("update", false, "write the golden files anew")

// plans are the restores that are tried on the definitions in testdata.
var plans = map[string]backstay.RestorePlan{
	"bios": {
		Disks: []backstay.PlannedDisk{
			{Target: "vda", Path: "/vms/copy-vda.qcow2", Format: "qcow2"},
			{Target: "vdb", Path: "/vms/copy-vdb.raw", Format: "raw"},
		},
		NICs: []backstay.PlannedNIC{{MAC: "52:54:00:aa:00:01", Kind: "network", Network: "lab"}},
	},
	"uefi-tpm": {Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/vms/copy-vda.raw", Format: "raw"}}},
	"uefi-transient": {
		Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/vms/copy-vda.qcow2", Format: "qcow2"}},
		NICs:  []backstay.PlannedNIC{{MAC: "52:54:00:aa:00:01", Kind: "bridge", Network: "br0"}},
	},
	"bridge-cdrom": {
		Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/vms/copy-vda.qcow2", Format: "qcow2"}},
		NICs: []backstay.PlannedNIC{
			{MAC: "52:54:00:aa:00:01", Kind: "bridge", Network: "br7", LinkDown: true},
			{MAC: "52:54:00:aa:00:02", Kind: "network", Network: "backup", LinkDown: true},
		},
	},
	"pinned": {Disks: []backstay.PlannedDisk{{Target: "sda", Path: "/vms/copy-sda.qcow2", Format: "qcow2"}}},
}

// TestTheNewVMDiffersInTheDocumentedFieldsOnly: the golden files are the diffs
// between the source's definition and the new VM's, so a reader sees every field
// that a restore changes, and no other may change.
func TestTheNewVMDiffersInTheDocumentedFieldsOnly(t *testing.T) {
	for name, plan := range plans {
		t.Run(name, func(t *testing.T) {
			def, source := captured(t, name)
			plan.Name, plan.UUID, plan.Source.Name = "copy", "5d3f6a60-0000-4000-8000-00000000beef", between(source, "<name>", "</name>")
			got, err := newVMDefinition(def, plan, definitionOptions{
				GenID:        "99999999-9999-4999-8999-999999999999",
				FolderExists: func(p string) bool { return p != "/gone" },
			})
			if err != nil {
				t.Fatal(err)
			}
			text := lineDiff(source, got.XML)
			text += fmt.Sprintf("nvram: %s\noutputs: %s\n", got.NVRAM, strings.Join(got.Outputs, " "))
			for _, w := range got.Warnings {
				text += "warning: " + w + "\n"
			}
			golden(t, filepath.Join("testdata", "define", name+".diff"), text)
		})
	}
}

func captured(t *testing.T, name string) (tier.Definition, string) {
	t.Helper()
	var def tier.Definition
	if inactive, err := os.ReadFile(filepath.Join("testdata", "define", name+".xml")); err == nil {
		def.InactiveXML = string(inactive)
	}
	if live, err := os.ReadFile(filepath.Join("testdata", "define", name+".live.xml")); err == nil {
		def.LiveXML = string(live)
	}
	if name != "bios" && name != "bridge-cdrom" {
		def.NVRAM = []byte("variables")
	}
	if def.InactiveXML != "" {
		return def, def.InactiveXML
	}
	return def, def.LiveXML
}

func between(s, from, to string) string {
	_, s, _ = strings.Cut(s, from)
	s, _, _ = strings.Cut(s, to)
	return s
}

func golden(t *testing.T, path, got string) {
	t.Helper()
	if *update {
		if err := os.WriteFile(path, []byte(got), 0o644); err != nil {
			t.Fatal(err)
		}
	}
	want, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if got != string(want) {
		t.Errorf("%s: the definition changed otherwise than the golden file says; got:\n%s", path, got)
	}
}

// lineDiff lists the lines that only one side has, in order.
func lineDiff(a, b string) string {
	x, y := strings.Split(a, "\n"), strings.Split(b, "\n")
	common := make([][]int, len(x)+1)
	for i := range common {
		common[i] = make([]int, len(y)+1)
	}
	for i := len(x) - 1; i >= 0; i-- {
		for j := len(y) - 1; j >= 0; j-- {
			if x[i] == y[j] {
				common[i][j] = common[i+1][j+1] + 1
			} else {
				common[i][j] = max(common[i+1][j], common[i][j+1])
			}
		}
	}
	var out strings.Builder
	i, j := 0, 0
	for i < len(x) || j < len(y) {
		switch {
		case i < len(x) && j < len(y) && x[i] == y[j]:
			i, j = i+1, j+1
		case i < len(x) && (j == len(y) || common[i+1][j] >= common[i][j+1]):
			out.WriteString("-" + x[i] + "\n")
			i++
		default:
			out.WriteString("+" + y[j] + "\n")
			j++
		}
	}
	return out.String()
}

// TestADiskWithoutAPlaceIsAnError: a disk that was written but is not in the
// definition would be a VM without its data.
func TestADiskWithoutAPlaceIsAnError(t *testing.T) {
	def, _ := captured(t, "bios")
	plan := plans["bios"]
	plan.Disks = append(plan.Disks, backstay.PlannedDisk{Target: "vdz", Path: "/vms/z", Format: "raw"})
	_, err := newVMDefinition(def, plan, definitionOptions{FolderExists: func(string) bool { return true }})
	if err == nil || !strings.Contains(err.Error(), "vdz") {
		t.Errorf("got %v", err)
	}
}
