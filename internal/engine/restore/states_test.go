package restore

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// TestSavedMemoryIsWhatStandsInTheWayAndNothingElse: the way out that is proposed
// must be enough. Saved memory forbids points too, but not the one that is taken
// after it was thrown away.
func TestSavedMemoryIsWhatStandsInTheWayAndNothingElse(t *testing.T) {
	for _, consent := range []bool{false, true} {
		f := facts()
		f.SafetyPoint, f.Item = "01JSAFETY", &backstay.ProtectedItem{}
		f.Source = &mover.SourceState{State: backstay.VMShutOff, Persistent: true, Saved: true}
		f.VMs = append(f.VMs, backstay.VM{ID: f.Point.VM.UUID, Name: f.Point.VM.Name, Host: f.Host.Name, State: backstay.VMShutOff, Reason: "its memory is saved"})
		r := backstay.RestoreRequest{Kind: backstay.ReplaceDisks, Point: f.Point.ID, DiscardSaved: consent}
		plan, err := NewPlan(r, f)
		must(t, err)
		for _, c := range plan.Refused() {
			if c.Name == "safety" || c.Name == "memory" && (consent || c.Code != backstay.CodeSavedMemory) {
				t.Errorf("discard %v: %s is refused: %s", consent, c.Name, c.Detail)
			}
		}
		if refused := plan.Refused(); !consent && len(refused) == 0 {
			t.Error("disks may be replaced under saved memory")
		}
	}
}
