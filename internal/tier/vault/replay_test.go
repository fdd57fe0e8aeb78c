package vault_test

import (
	"bytes"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault"
)

// A copy that was put back into an older state can have the manifest of an attempt
// that broke off: authentic, of the same point, and not what was committed. It must
// not be taken for the sound one.
func TestRepairKeepsTheManifestThatWasCommitted(t *testing.T) {
	for n := range 3 {
		for _, how := range []string{"with the key", "without a key"} {
			w := newWorld(t)
			id := newID()
			name := "points/" + string(id)
			w.brokenOff(id, 1)
			older := w.get(0, name)
			pack := w.objects("packs/")[0]
			w.everywhere(pack, nil) // so that the next attempt cannot complete it
			w.must(w.small(w.open(w.store), id, 1))
			want := w.get(0, name)
			if bytes.Equal(older, want) {
				t.Fatal("the manifest is the same")
			}
			w.copies[n].Replace(name, older)
			for i := range 3 { // and a pack of the point is missing somewhere
				if i != n {
					w.must(w.copies[i].Delete(w.ctx, w.objects("packs/")[0]))
					break
				}
			}
			s := w.scrubbings()[slices.Index([]string{"with the key", "without a key"}, how)]
			report, err := s.scrub(w.store, vault.ScrubOptions{})
			w.must(err)
			if len(report.Damages) == 0 {
				t.Errorf("%s, copy %d: nothing was found", how, n)
			}
			_, err = s.repair(w.store, report.Damages)
			w.must(err)
			for i := range 3 {
				if !bytes.Equal(w.get(i, name), want) {
					t.Errorf("%s, copy %d: copy %d has another manifest than was committed", how, n, i)
				}
			}
			headers, err := w.open(w.store).Points(w.ctx)
			w.must(err)
			if len(headers) != 1 || headers[0].Copies != 3 || headers[0].Damage != nil {
				t.Errorf("%s, copy %d: %+v", how, n, headers)
			}
			again, err := s.scrub(w.store, vault.ScrubOptions{Points: []backstay.PointID{id}})
			w.must(err)
			if len(again.Damages) != 0 {
				t.Errorf("%s, copy %d: %+v", how, n, again.Damages)
			}
			w.restored(w.open(w.store), id, "vda", sparse(1, 256<<10))
		}
	}
}
