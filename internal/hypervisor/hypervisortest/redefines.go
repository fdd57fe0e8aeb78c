package hypervisortest

import (
	"errors"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// redefine: the definition of a VM that is shut off is replaced as a whole; that
// of one that runs, or of another, never.
func (s HostSuite) redefine(t *testing.T) {
	w := s.vm(t)
	ctx := testContext(t)
	before := w.domain(t)
	other := filepath.Join(w.dir, "other.qcow2")
	must(t, s.Images.Create(ctx, other, "qcow2", 4*mib))
	xml := strings.ReplaceAll(before.InactiveXML, w.disks[0].Source, other)
	must(t, s.Host.Redefine(ctx, w.id, xml))
	after := w.domain(t)
	if got := after.VM.Disks[0].Source; got != other {
		t.Errorf("the first disk is on %s", got)
	}
	if got := after.VM.Disks[1].Source; got != w.disks[1].Source {
		t.Errorf("the second disk is on %s", got)
	}
	for what, wrong := range map[string]string{
		"of another name": strings.Replace(xml, "<name>"+before.VM.Name, "<name>other-"+before.VM.Name, 1),
		"of another UUID": strings.Replace(xml, string(w.id), "99999999-9999-4999-8999-999999999999", 1),
		"that is none":    "<domain",
	} {
		if err := s.Host.Redefine(ctx, w.id, wrong); err == nil {
			t.Errorf("a definition %s was taken", what)
		}
	}
	w.start(t)
	if err := s.Host.Redefine(ctx, w.id, before.InactiveXML); err == nil {
		t.Error("a running VM was redefined")
	}
	w.stop(t)
	must(t, s.Host.Redefine(ctx, w.id, before.InactiveXML))
	if got := w.domain(t).InactiveXML; !slices.Equal(lines(got), lines(before.InactiveXML)) {
		t.Errorf("the old definition did not come back:\n%s\nit was:\n%s", got, before.InactiveXML)
	}
	const nobody = backstay.VMID("99999999-9999-4999-8999-999999999999")
	if err := s.Host.Redefine(ctx, nobody, xml); !errors.Is(err, hypervisor.ErrNoVM) {
		t.Errorf("a VM that is not there: %v", err)
	}
	must(t, s.Host.Shutdown(ctx, w.id)) // it does not run
	if err := s.Host.Shutdown(ctx, nobody); !errors.Is(err, hypervisor.ErrNoVM) {
		t.Errorf("shut down a VM that is not there: %v", err)
	}
}

// lines are those of a definition in alphabetical order: libvirt moves controllers
// that it added itself.
func lines(xml string) []string {
	all := strings.Split(xml, "\n")
	slices.Sort(all)
	return all
}
