package host

import (
	"crypto/rand"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/folder"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier/vault"
)

// servedWorld is a locked world whose points are wrapped by a key service, and
// escrowed to a recovery key.
type servedWorld struct {
	*lockedWorld
	keys     string // the service's folder
	versions int
	service  mover.KeyService
	recovery backstay.Secret
	policy   mover.KeyPolicy
}

func newServedWorld(t *testing.T) *servedWorld {
	t.Helper()
	w := &servedWorld{lockedWorld: newLockedWorld(t)}
	w.keys = w.path("kms")
	must(t, os.Mkdir(w.keys, 0o700))
	w.rotate(t)
	w.service = mover.KeyService{Name: "corp", Kind: "folder", URL: w.keys, Key: "vm"}
	w.host.openKeyService = func(s mover.KeyService) (keyring.Service, error) { return folder.New(s.URL, s.Key) }
	identity, recipient, err := vault.NewIdentity()
	must(t, err)
	w.recovery, w.policy = identity, mover.KeyPolicy{Service: w.service, Escrow: []string{recipient}}
	return w
}

func (w *servedWorld) rotate(t *testing.T) {
	w.versions++
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	must(t, os.WriteFile(filepath.Join(w.keys, "vm."+strconv.Itoa(w.versions)+".key"), key, 0o600))
}

const servedPoint = backstay.PointID("01JP0000000000000000000002")

// backup takes a point by the service's scheme, in both tiers.
func (w *servedWorld) backup(t *testing.T, point backstay.PointID, keys *mover.KeyPolicy) mover.Prepared {
	t.Helper()
	disks := []backstay.DiskTarget{"vda", "vdb"}
	prepared, err := w.host.Prepare(t.Context(), mover.PrepareRequest{Job: testJob, Point: point, VM: lockedVM, Disks: disks, Keys: keys})
	must(t, err)
	w.taken, err = w.host.Take(t.Context(), mover.TakeRequest{Job: testJob, Point: point, VM: lockedVM, Time: instant, Consistency: backstay.CrashConsistent})
	must(t, err)
	_, err = w.host.Transfer(t.Context(), mover.TransferRequest{Job: testJob, Point: point, Vault: w.access}, nil)
	must(t, err)
	return prepared
}

// lose takes the VM and its secret away.
func (w *servedWorld) lose(t *testing.T) {
	must(t, w.hv.Destroy(t.Context(), lockedVM))
	must(t, w.hv.Undefine(t.Context(), lockedVM))
	w.hv.SetSecret(secretID, nil, false)
}

func (w *servedWorld) served(tier backstay.Tier, point backstay.PointID) mover.StageRequest {
	r := w.restore(tier)
	r.Plan.Point, r.Services = point, []mover.KeyService{w.service}
	return r
}

var bothTiers = []backstay.Tier{backstay.SnapshotTier, backstay.VaultTier}

// TestAKeyServiceUnwrapsWhatItWrapped (row B4b), also after it rotated its key; no
// tier of the point has the value without it.
func TestAKeyServiceUnwrapsWhatItWrapped(t *testing.T) {
	for _, tier := range bothTiers {
		w := newServedWorld(t)
		if p := w.backup(t, servedPoint, &w.policy); len(p.Warnings) > 0 {
			t.Errorf("warnings: %v", p.Warnings)
		}
		if want := (backstay.PointSecret{UUID: secretID, Scheme: backstay.SecretInService, Service: "corp"}); len(w.taken.Secrets) != 1 || w.taken.Secrets[0] != want {
			t.Errorf("the point tells %+v", w.taken.Secrets)
		}
		r := w.served(tier, servedPoint)
		held, err := w.host.heldOf(t.Context(), r)
		must(t, err)
		if s := held.definition.Secrets[0]; len(s.Value) > 0 || strings.Contains(string(s.Escrow)+s.Wrapped, passValue) {
			t.Errorf("%s tier: the value is in the point", tier)
		}
		w.rotate(t)
		w.lose(t)
		_, err = w.host.Stage(t.Context(), r, nil)
		must(t, err)
		if w.value(secretID) != passValue {
			t.Errorf("%s tier: the secret is %q", tier, w.value(secretID))
		}
	}
}

// TestALostKeyServiceFailsClosed (rows B4b, B4e): a named error and nothing made;
// the recovery key brings the secret back.
func TestALostKeyServiceFailsClosed(t *testing.T) {
	for _, tier := range bothTiers {
		for name, c := range map[string]struct {
			lose func(*servedWorld)
			want backstay.Code
		}{
			"away":   {func(w *servedWorld) { must(t, os.Rename(w.keys, w.keys+".away")) }, backstay.CodeKeyServiceAway},
			"denied": {func(w *servedWorld) { must(t, os.WriteFile(filepath.Join(w.keys, "vm.1.key"), []byte("other"), 0o600)) }, backstay.CodeKeyDenied},
			"forged": {func(w *servedWorld) {
				must(t, os.Remove(filepath.Join(w.keys, "vm.1.key")))
				w.versions = 0
				w.rotate(t)
			}, backstay.CodeDamaged},
		} {
			w := newServedWorld(t)
			w.backup(t, servedPoint, &w.policy)
			w.lose(t)
			c.lose(w)
			r := w.served(tier, servedPoint)
			if _, err := w.host.Stage(t.Context(), r, nil); !backstay.IsCode(err, c.want) {
				t.Errorf("%s, %s tier: %v, want %s", name, tier, err, c.want)
			}
			if left := w.left(); len(left) > 0 || w.value(secretID) != "" {
				t.Errorf("%s, %s tier: left %v and secret %q", name, tier, left, w.value(secretID))
			}
			ask := mover.SecretsRequest{Point: servedPoint, Tier: tier, Vault: r.Vault, Services: r.Services}
			states, err := w.host.SecretStates(t.Context(), ask)
			must(t, err)
			if states[0].Problem == nil || states[0].Problem.Code != c.want || states[0].Present {
				t.Errorf("%s: states %+v", name, states)
			}
			value, err := vault.OpenEscrow(states[0].Escrow, backstay.SecretAbout(secretID), w.recovery)
			must(t, err)
			must(t, w.host.GiveSecrets(t.Context(), mover.GiveRequest{SecretsRequest: ask, Secrets: []mover.GivenSecret{{UUID: secretID, Value: value}}}))
			_, err = w.host.Stage(t.Context(), r, nil)
			must(t, err)
			w.noMarker(t, passValue)
		}
	}
}

// TestEachPointIsRestoredByItsOwnScheme (row B4d): one by value, one by service.
func TestEachPointIsRestoredByItsOwnScheme(t *testing.T) {
	w := newServedWorld(t)
	w.backup(t, servedPoint, &w.policy)
	w.lose(t)
	must(t, os.Rename(w.keys, w.keys+".away"))
	if _, err := w.host.Stage(t.Context(), w.served(backstay.VaultTier, servedPoint), nil); !backstay.IsCode(err, backstay.CodeKeyServiceAway) {
		t.Errorf("the one by service, without it: %v", err)
	}
	_, err := w.host.Stage(t.Context(), w.served(backstay.VaultTier, pointID), nil)
	must(t, err) // the one of before holds the value
}

// TestABackupGoesOnWithoutItsKeyService, and says that only the recovery key will
// help; with neither it fails, before the guest is touched.
func TestABackupGoesOnWithoutItsKeyService(t *testing.T) {
	w := newServedWorld(t)
	must(t, os.Rename(w.keys, w.keys+".away"))
	if p := w.backup(t, servedPoint, &w.policy); len(p.Warnings) != 1 || !strings.Contains(p.Warnings[0], "recovery key alone") {
		t.Errorf("warnings: %v", p.Warnings)
	}
	alone := mover.KeyPolicy{Service: w.service}
	_, err := w.host.Prepare(t.Context(), mover.PrepareRequest{Job: testJob, Point: "01JP0000000000000000000003", VM: lockedVM, Disks: []backstay.DiskTarget{"vda"}, Keys: &alone})
	if !backstay.IsCode(err, backstay.CodeKeyServiceAway) {
		t.Errorf("with neither service nor recovery key: %v", err)
	}
}
