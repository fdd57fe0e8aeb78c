package pull

import (
	"path/filepath"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor/fake"
	"github.com/backstay/backstay/internal/quiesce"
)

// TestAFrozenGuestWhoseAgentIsSilentIsThawedWhenItAnswers (I9): the session that
// froze it is gone, and its guard with it.
func TestAFrozenGuestWhoseAgentIsSilentIsThawedWhenItAnswers(t *testing.T) {
	const vm = backstay.VMID("11111111-1111-4111-8111-111111111111")
	dir := t.TempDir()
	hv := fake.New(t.TempDir())
	disk := filepath.Join(dir, "vda.raw")
	if err := hv.Create(t.Context(), disk, "raw", 1<<20); err != nil {
		t.Fatal(err)
	}
	if _, err := hv.Define(t.Context(), fake.XML("web01", vm, backstay.Disk{Target: "vda", Source: disk, Format: "raw"})); err != nil {
		t.Fatal(err)
	}
	if err := hv.Start(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	guards := quiesce.Within(hv.Elsewhere(), nil)
	p, err := New(Options{Hypervisor: hv, Images: hv, StateDir: filepath.Join(dir, "state"), Guards: guards})
	if err != nil {
		t.Fatal(err)
	}
	r, err := p.load(vm)
	if err != nil {
		t.Fatal(err)
	}
	r.Session = &sessionJournal{Folder: filepath.Join(dir, "pull-x"), Owed: &quiesce.Debt{Asked: true}}
	if err := r.write(); err != nil {
		t.Fatal(err)
	}
	hv.SetFrozen(vm, true)
	hv.SetAgent(vm, backstay.AgentDisconnected)
	if err := p.Settle(t.Context(), vm); err != nil {
		t.Fatal(err)
	}
	hv.SetAgent(vm, backstay.AgentConnected)
	guards.Die() // returns when they have let go
	if hv.Frozen(vm) {
		t.Error("the guest is frozen still")
	}
}
