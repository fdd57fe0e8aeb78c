package vault_test

import (
	"bytes"
	"maps"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// otherWorld is a vault of another id.
func otherWorld(t *testing.T) *world {
	w := newWorld(t)
	_, recipient, err := vault.NewIdentity()
	w.must(err)
	const id = "3b0f5a3e-5f0c-4d0a-9d6e-000000000002"
	for i := range w.copies {
		for name := range w.all()[i] {
			w.must(w.copies[i].Delete(w.ctx, name))
		}
	}
	w.master, err = vault.Create(w.ctx, w.store, vault.CreateOptions{ID: id, Name: "theirs", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	w.vault, err = vault.Open(w.ctx, w.store, id, w.master)
	w.must(err)
	w.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(5, 1<<20)}})
	return w
}

// A disk of another vault in the place of a copy: the points are read from the
// others, and nothing of what lies there is written or removed.
func TestAnotherVaultInThePlaceOfACopyIsLeftAlone(t *testing.T) {
	p, other := plantSmall(t), otherWorld(t)
	theirs := other.all()[0]
	mixed := replica.New(p.copies[0], p.copies[1], other.copies[0])
	v := p.open(mixed)
	if got := v.Strangers(p.ctx); !slices.Equal(got, []int{2}) {
		t.Errorf("strangers: %v", got)
	}
	if err := v.Unmixed(p.ctx); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("unmixed: %v", err)
	}
	report, err := v.Scrub(p.ctx, vault.ScrubOptions{})
	p.must(err)
	if len(report.Damages) == 0 {
		t.Fatal("the scrub found nothing, so the repair has nothing to do")
	}
	if _, err := v.Repair(p.ctx, report.Damages, vault.RepairOptions{}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("repair: %v", err)
	}
	for i, id := range p.points {
		p.restored(v, id, "vda", p.data[i])
	}
	if !maps.EqualFunc(other.all()[0], theirs, bytes.Equal) {
		t.Error("the other vault was changed")
	}
}

// A header of another vault alone is damage, and repaired.
func TestAHeaderOfAnotherVaultIsDamageOfThisCopy(t *testing.T) {
	p, other := plantSmall(t), otherWorld(t)
	good := p.get(1, "vault.json")
	p.plantIn(1, "vault.json", other.get(0, "vault.json"))
	v := p.open(p.store)
	p.must(v.Unmixed(p.ctx))
	report, err := v.Scrub(p.ctx, vault.ScrubOptions{})
	p.must(err)
	_, err = v.Repair(p.ctx, report.Damages, vault.RepairOptions{})
	p.must(err)
	if !bytes.Equal(p.get(1, "vault.json"), good) {
		t.Error("it was not repaired")
	}
}

// What is away, and an empty copy, are no other vault.
func TestACopyThatIsGoneIsNoOtherVault(t *testing.T) {
	p := plantSmall(t)
	for name := range p.all()[2] {
		p.must(p.copies[2].Delete(p.ctx, name))
	}
	v := p.open(p.store)
	if got := v.Strangers(p.ctx); len(got) > 0 {
		t.Errorf("strangers: %v", got)
	}
	p.must(v.Unmixed(p.ctx))
}
