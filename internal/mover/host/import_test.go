package host

import (
	"os"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// TestAnImageIsOpenedOnTheOperatorsWordOrItsOwnBytes: what a guest may have written
// onto a raw disk decides nothing, and no link leads out of the allowed folders.
func TestAnImageIsOpenedOnTheOperatorsWordOrItsOwnBytes(t *testing.T) {
	w := newTestWorld(t)
	file := func(name, head string) string {
		must(t, os.WriteFile(w.path("out/"+name), append([]byte(head), make([]byte, 1<<20-len(head))...), 0o600))
		return w.path("out/" + name)
	}
	forged := "QFI\xfb\x00\x00\x00\x03" + strings.Repeat("\x00", 7) + "\x50" // a backing file's name at 80
	must(t, os.Symlink("/etc/hostname", w.path("out/link.raw")))
	for _, c := range []struct {
		name   string
		disk   backstay.ImageDisk
		folder string
		format string // "" for refused
		code   backstay.Code
	}{
		{"a plain disk", backstay.ImageDisk{Path: file("plain", "boot")}, "", "raw", ""},
		{"a raw disk that begins like qcow2", backstay.ImageDisk{Path: file("forged.raw", forged)}, "", "", backstay.CodeImageUnfit},
		{"the same with the operator's word", backstay.ImageDisk{Path: file("forged.img", forged), Format: "raw"}, "", "raw", ""},
		{"a qcow2 that stands on another file", backstay.ImageDisk{Path: file("over.qcow2", forged)}, "", "", backstay.CodeImageUnfit},
		{"a file that only its name makes a VMDK", backstay.ImageDisk{Path: file("named.vmdk", "boot")}, "", "", backstay.CodeImageUnfit},
		{"a format that the bytes deny", backstay.ImageDisk{Path: file("denied", "boot"), Format: "vhdx"}, "", "", backstay.CodeImageUnfit},
		{"an unknown format", backstay.ImageDisk{Path: file("vdi", "boot"), Format: "vdi"}, "", "", backstay.CodeImageUnfit},
		{"an encrypted disk", backstay.ImageDisk{Path: file("luks", "LUKS\xba\xbe")}, "", "", backstay.CodeImageUnfit},
		{"a path that is not the host's", backstay.ImageDisk{Path: "old.raw"}, "", "", backstay.CodeImageUnfit},
		{"a folder", backstay.ImageDisk{Path: w.path("out")}, "", "", backstay.CodeImageUnfit},
		{"inside of the allowed folder", backstay.ImageDisk{Path: file("inside", "boot")}, w.path("out"), "raw", ""},
		{"beside a folder of that beginning", backstay.ImageDisk{Path: file("beside", "boot")}, w.path("ou"), "", backstay.CodeNotAllowed},
		{"a link that leads out", backstay.ImageDisk{Path: w.path("out/link.raw")}, w.path("out"), "", backstay.CodeNotAllowed},
		{"a file that is missing in the allowed folder", backstay.ImageDisk{Path: w.path("out/none")}, w.path("out"), "", backstay.CodeImageUnfit},
		{"a file that is missing elsewhere", backstay.ImageDisk{Path: "/etc/none"}, w.path("out"), "", backstay.CodeNotAllowed},
		{"a disk that a VM writes to", backstay.ImageDisk{Path: w.path("vms/web01.raw")}, "", "", backstay.CodeConflict},
	} {
		t.Run(c.name, func(t *testing.T) {
			c.disk.Target = "vda"
			image := backstay.ImageBackup{Name: "old", Disks: []backstay.ImageDisk{c.disk}}
			if c.folder != "" {
				image.Folders = []string{c.folder}
			}
			disks, err := w.host.LookAt(t.Context(), image)
			if c.format == "" {
				if !backstay.IsCode(err, c.code) {
					t.Errorf("looked at %+v, %v", disks, err)
				}
				return
			}
			if err != nil || disks[0].Format != c.format || disks[0].Size != 1<<20 {
				t.Errorf("looked at %+v, %v", disks, err)
			}
		})
	}
}

// TestTheDefinitionOfImageFilesIsOneThatARestoreCanUse: its disks are all planned.
func TestTheDefinitionOfImageFilesIsOneThatARestoreCanUse(t *testing.T) {
	w := newTestWorld(t)
	must(t, os.WriteFile(w.path("out/a'<&.raw"), append(make([]byte, 1<<20), make([]byte, 512)...), 0o600))
	image := backstay.ImageBackup{Name: "old <&>", Firmware: backstay.UEFI, Network: "default", Disks: []backstay.ImageDisk{
		{Target: "vda", Path: w.path("out/a'<&.raw")}, {Target: "sdb", Path: w.path("out/a'<&.raw")},
	}}
	done, err := w.host.Import(t.Context(), mover.ImportRequest{Job: testJob, Point: pointID, VM: copyVM, Image: image, Vault: w.access, Time: instant}, nil)
	must(t, err)
	if s := done.Taken.Shape; s.Agent != backstay.AgentNone || s.Firmware != backstay.UEFI || len(s.NICs) != 1 || s.Disks[1].Bus != "sata" || s.Machine != "q35" {
		t.Errorf("shape %+v", s)
	}
	plan := backstay.RestorePlan{Kind: backstay.CreateVM, Point: pointID, Tier: backstay.VaultTier, Name: "new", UUID: backstay.VMID("5d3f6a60-0000-4000-8000-00000000bee5")}
	for _, d := range done.Taken.Disks {
		plan.Disks = append(plan.Disks, backstay.PlannedDisk{Target: d.Target, Path: w.path("out/new-" + string(d.Target)), Format: d.Format, Size: d.Size})
	}
	r := mover.StageRequest{Job: "01JB0000000000000000000007", Plan: plan, Vault: &w.access}
	def, err := w.host.definitionOf(t.Context(), r)
	must(t, err)
	made, err := newVMDefinition(def, plan, definitionOptions{FolderExists: func(string) bool { return true }})
	if err != nil || !strings.Contains(made.XML, "firmware='efi'") || strings.Contains(made.XML, "a'<&") || !strings.Contains(made.XML, w.path("out/new-sdb")) {
		t.Errorf("%v\n%s", err, made.XML)
	}
	if _, err := w.host.Stage(t.Context(), r, nil); err != nil {
		t.Error(err)
	}
}
