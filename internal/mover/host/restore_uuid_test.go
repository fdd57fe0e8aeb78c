package host

import (
	"testing"

	backstay "github.com/backstay/backstay"
)

// TestARestoreThatIsTakenBackReleasesOnlyItsOwnLayers: another one may make a VM with
// the same UUID, of a source that is gone.
func TestARestoreThatIsTakenBackReleasesOnlyItsOwnLayers(t *testing.T) {
	w := newTestWorld(t)
	r := w.backup(backstay.SnapshotTier)
	_, err := w.host.Stage(t.Context(), r, nil)
	must(t, err)
	must(t, define(t, w, r))
	users := len(w.users())
	other := r
	other.Job = secondJob
	other.Plan.Disks = append([]backstay.PlannedDisk(nil), r.Plan.Disks...)
	for i := range other.Plan.Disks {
		other.Plan.Disks[i].Path += ".other"
	}
	_, err = w.host.Stage(t.Context(), other, nil)
	must(t, err)
	if len(w.users()) < users {
		t.Errorf("the layers are held %d times and not %d", len(w.users()), users)
	}
	must(t, w.host.Abandon(t.Context(), other))
	if len(w.users()) != users {
		t.Errorf("the layers of the other VM are held %d times and not %d", len(w.users()), users)
	}
}
