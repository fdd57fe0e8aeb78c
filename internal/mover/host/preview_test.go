package host

import (
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
)

func TestFilesOfTheHostThatAVMBootsFromAreLookedForBeforehand(t *testing.T) {
	there := filepath.Join(t.TempDir(), "there")
	if err := os.WriteFile(there, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for inside, want := range map[string]backstay.Code{
		"<loader>" + there + "</loader>":           "",
		"<loader>" + there + ".gone</loader>":      backstay.CodeFirmwareMissing,
		"<kernel>" + there + ".gone</kernel>":      backstay.CodeBootFileMissing,
		"<initrd>" + there + ".gone</initrd>":      backstay.CodeBootFileMissing,
		"<firmware/>":                              "", // libvirt's to find
		"<loader type='rom'>bios.bin</loader>":     "", // QEMU's own
		"<kernel>" + there + "</kernel><cmdline/>": "",
	} {
		checks, err := bootChecks("<domain><os>" + inside + "</os></domain>")
		if err != nil {
			t.Fatal(err)
		}
		if want == "" && len(checks) > 0 || want != "" && (len(checks) != 1 || checks[0].Code != want || checks[0].OK || checks[0].Action == "") {
			t.Errorf("%s: %+v, want %q", inside, checks, want)
		}
	}
}

func TestAnEmulatorThatIsElsewhereHereIsTheHostsOwn(t *testing.T) {
	def := tier.Definition{InactiveXML: "<domain><name>a</name><uuid>u</uuid><devices><emulator>/opt/qemu/bin/qemu</emulator></devices></domain>"}
	for _, there := range []bool{true, false} {
		got, err := newVMDefinition(def, backstay.RestorePlan{Name: "b"}, definitionOptions{FileExists: func(string) bool { return there }})
		if err != nil {
			t.Fatal(err)
		}
		kept := strings.Contains(got.XML, "<emulator>")
		if kept != there || (len(got.Warnings) == 0) != there {
			t.Errorf("there: %v, kept: %v, warnings %q", there, kept, got.Warnings)
		}
	}
}

func TestACPUThatTheHostLacksRefusesOnlyWhatIsToStart(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	for _, c := range []struct {
		problem error
		code    backstay.Code
	}{{hypervisor.ErrCPUFeature, backstay.CodeCPUFeature}, {hypervisor.ErrCPUMode, backstay.CodeCPUMode}, {hypervisor.ErrAway, ""}, {nil, ""}} {
		w.hv.CPUProblem = c.problem
		for _, start := range []bool{true, false} {
			r.Plan.Start = start
			p, err := w.host.Preview(t.Context(), r)
			if err != nil {
				t.Fatal(err)
			}
			refused := slices.ContainsFunc(p.Checks, func(k backstay.Check) bool { return !k.OK && k.Code == c.code && c.code != "" })
			if refused != (c.code != "" && start) {
				t.Errorf("%v, start %v: %+v", c.problem, start, p.Checks)
			}
		}
	}
}
