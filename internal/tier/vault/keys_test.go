package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"filippo.io/age"
	"filippo.io/age/plugin"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// The test program is an age plugin when it is called as one.
func init() {
	vault.CheapPassphrases()
	if filepath.Base(os.Args[0]) == "age-plugin-backstaytest" {
		os.Exit(beThePlugin())
	}
}

// pluginKey is the one key that the plugin of these tests has.
const pluginKey = "AGE-SECRET-KEY-1GFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPYYSJZGFPQ4EGAEX"

func beThePlugin() int {
	p, err := plugin.New("backstaytest")
	if err != nil {
		return 1
	}
	key := func(data []byte) (*age.X25519Identity, error) {
		if string(data) != "the token" {
			return nil, errors.New("no such token")
		}
		return age.ParseX25519Identity(pluginKey)
	}
	p.HandleRecipient(func(data []byte) (age.Recipient, error) {
		id, err := key(data)
		if err != nil {
			return nil, err
		}
		return id.Recipient(), nil
	})
	p.HandleIdentity(func(data []byte) (age.Identity, error) { return key(data) })
	return p.Main()
}

// withPlugin puts the plugin into the PATH and returns a recipient and an
// identity of it.
func withPlugin(t *testing.T) (recipient string, identity backstay.Secret) {
	t.Helper()
	self, err := os.Executable()
	if err != nil {
		t.Fatal(err)
	}
	dir := t.TempDir()
	if err := os.Symlink(self, filepath.Join(dir, "age-plugin-backstaytest")); err != nil {
		t.Fatal(err)
	}
	t.Setenv("PATH", dir+":"+os.Getenv("PATH"))
	return plugin.EncodeRecipient("backstaytest", []byte("the token")),
		backstay.NewSecret([]byte(plugin.EncodeIdentity("backstaytest", []byte("the token"))))
}

const passphrase = "correct horse battery staple"

func secret(s string) backstay.Secret { return backstay.NewSecret([]byte(s)) }

// person adds a fresh recipient and returns its identity and its id.
func (w *world) person(label string) (backstay.Secret, string) {
	w.t.Helper()
	identity, recipient, err := vault.NewIdentity()
	w.must(err)
	keys, err := w.vault.AddRecipient(w.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson, Label: label}, created)
	w.must(err)
	return identity, keys.Recipients[len(keys.Recipients)-1].ID
}

// rotate rotates and opens the vault with the new keyset.
func (w *world) rotate(o vault.RotateOptions) {
	w.t.Helper()
	var err error
	o.Now = created
	w.master, _, err = w.vault.Rotate(w.ctx, o)
	w.must(err)
	w.vault = w.open(w.store)
}

// opens demands that an identity opens the vault, and all of these points.
func (w *world) opens(s blob.Store, identity backstay.Secret, points map[backstay.PointID][]byte) error {
	w.t.Helper()
	id, keyset, err := vault.Unwrap(w.ctx, s, identity)
	if err != nil {
		return err
	}
	v, err := vault.Open(w.ctx, s, id, keyset)
	if err != nil {
		return err
	}
	for point, data := range points {
		w.restored(v, point, "vda", data)
	}
	return nil
}

func TestEachRecipientOpensTheVaultAlone(t *testing.T) {
	w := newWorld(t)
	tokenRecipient, token := withPlugin(t)
	hybrid, err := age.GenerateHybridIdentity()
	w.must(err)
	for _, n := range []vault.NewRecipient{
		{Recipient: hybrid.Recipient().String(), Purpose: backstay.ForRecovery, Label: "safe"},
		{Recipient: tokenRecipient, Purpose: backstay.ForPerson, Label: "token"},
		{Passphrase: secret(passphrase), Purpose: backstay.ForPerson, Label: "in a head"},
		{Passphrase: secret(passphrase + " two"), Purpose: backstay.ForRecovery},
	} {
		_, err := w.vault.AddRecipient(w.ctx, n, created)
		w.must(err)
	}
	bob, _ := w.person("bob")
	points := map[backstay.PointID][]byte{newID(): sparse(1, 2<<20)}
	for id, data := range points {
		w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: data}})
	}
	all := map[string]backstay.Secret{"first": w.owner, "hybrid": secret(hybrid.String()), "token": token, "bob": bob,
		"passphrase": vault.Passphrase(secret(passphrase)), "another passphrase": vault.Passphrase(secret(passphrase + " two")),
		"several lines": secret("# mine\n" + string(w.owner.Reveal()) + "\n\n" + string(bob.Reveal()) + "\n")}
	check := func() {
		t.Helper()
		for who, identity := range all {
			if err := w.opens(w.store, identity, points); err != nil {
				t.Errorf("%s: %v", who, err)
			}
			if out, err := vault.EscrowCheck(w.ctx, w.store, identity); err != nil || !out.OK || out.Copies != 3 || len(out.Problems) > 0 || len(out.Checked) != 4 {
				t.Errorf("escrow-check of %s: %+v %v", who, out, err)
			}
		}
	}
	check()
	w.rotate(vault.RotateOptions{Passphrases: []backstay.Secret{secret(passphrase + " two"), secret(passphrase)}})
	id := newID()
	points[id] = sparse(2, 2<<20)
	w.backup(vault.WriteOptions{Point: id}, source{target: "vda", disk: &disk{data: points[id]}})
	check()
	keys, err := w.vault.Keys(w.ctx)
	w.must(err)
	if keys.Epoch != 2 || keys.Generation != 7 || len(keys.Recipients) != 6 || len(keys.Problems) > 0 || len(w.objects("keys/")) != 6 {
		t.Errorf("%+v, wrapped objects %v", keys, w.objects("keys/"))
	}
}

// A passphrase must stand alone, and can only be wrapped anew by who knows it.
func TestRotatingNeedsThePassphrasesOfPassphraseRecipients(t *testing.T) {
	w := newWorld(t)
	_, err := w.vault.AddRecipient(w.ctx, vault.NewRecipient{Passphrase: secret(passphrase), Purpose: backstay.ForPerson, Label: "mine"}, created)
	w.must(err)
	before := w.objects("")
	_, _, err = w.vault.Rotate(w.ctx, vault.RotateOptions{Now: created, Passphrases: []backstay.Secret{secret("not the right one")}})
	if !backstay.IsCode(err, backstay.CodeConflict) || !strings.Contains(err.Error(), "mine") || strings.Contains(fmt.Sprint(err), "right one") {
		t.Errorf("rotated without the passphrase: %v", err)
	}
	if !slices.Equal(before, w.objects("")) {
		t.Errorf("objects: %v", w.objects(""))
	}
	if _, err := w.vault.AddRecipient(w.ctx, vault.NewRecipient{Passphrase: secret("short"), Purpose: backstay.ForPerson}, created); !backstay.IsCode(err, backstay.CodeUsage) {
		t.Errorf("short passphrase: %v", err)
	}
	w.rotate(vault.RotateOptions{Passphrases: []backstay.Secret{secret(passphrase)}})
	w.must(w.opens(w.store, vault.Passphrase(secret(passphrase)), nil))
	if err := w.opens(w.store, vault.Passphrase(secret(passphrase+"!")), nil); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("wrong passphrase: %v", err)
	}
}

func TestRotatingRewritesNothingAndKeepsDeduplication(t *testing.T) {
	w := newWorld(t)
	data := sparse(3, 6<<20)
	first, second, third := newID(), newID(), newID()
	w.backup(vault.WriteOptions{Point: first}, source{target: "vda", disk: &disk{data: data}})
	before := map[string][]byte{}
	for _, name := range w.objects("") {
		before[name] = w.get(0, name)
	}
	w.rotate(vault.RotateOptions{})
	for _, name := range w.objects("") {
		if !strings.HasPrefix(name, "keys/") && !strings.HasPrefix(name, "headers/") && !strings.HasPrefix(name, "chain/") && before[name] == nil {
			t.Errorf("rotating wrote %s", name)
		}
	}
	for name, data := range before {
		if strings.HasPrefix(name, "keys/") {
			continue
		}
		if got, err := w.copies[0].Get(w.ctx, name, 0, -1); err != nil || !bytes.Equal(got, data) {
			t.Errorf("rotating changed %s: %v", name, err)
		}
	}
	stats := w.backup(vault.WriteOptions{Point: second}, source{target: "vda", disk: &disk{data: data}})
	if stats[0].ChunksNew != 0 {
		t.Errorf("the same content is stored again after rotating: %+v", stats)
	}
	changed := slices.Clone(data)
	ranges := change(5, changed, 6)
	w.backup(vault.WriteOptions{Point: third, Parent: first}, source{target: "vda", disk: &disk{data: changed}, changed: ranges, mapped: true})
	w.must(w.opens(w.store, w.owner, map[backstay.PointID][]byte{first: data, second: data, third: changed}))
	// What was sealed since has the new epoch.
	if epoch := w.get(0, "points/"+string(third))[51]; epoch != 2 {
		t.Errorf("manifest of epoch %d", epoch)
	}
	if epoch := w.get(0, "points/"+string(first))[51]; epoch != 1 {
		t.Errorf("older manifest of epoch %d", epoch)
	}
}

// What was begun before the keys were rotated ends with the keys that it has.
func TestRunningTransferGoesOnWhenKeysAreRotated(t *testing.T) {
	w := newWorld(t)
	data, id := sparse(9, 3<<20), newID()
	before := w.vault
	transfer, err := before.Begin(w.ctx, vault.WriteOptions{Point: id})
	w.must(err)
	defer transfer.Abort()
	_, err = transfer.WriteDisk(w.ctx, vault.DiskSource{Target: "vda", Format: "raw", Image: &disk{data: data}})
	w.must(err)
	w.rotate(vault.RotateOptions{})
	_, err = transfer.Commit(w.ctx, facts(id), definition)
	w.must(err)
	w.must(w.opens(w.store, w.owner, map[backstay.PointID][]byte{id: data}))
	w.restored(before, id, "vda", data)
	if _, err := before.Begin(w.ctx, vault.WriteOptions{Point: newID()}); !backstay.IsCode(err, backstay.CodeVaultKeyOld) {
		t.Errorf("a transfer begins with the keys of before: %v", err)
	}
	later, err := vault.Open(w.ctx, w.store, vaultID, w.master)
	if err != nil || later.Outdated() {
		t.Errorf("opened with the new keys: %v", err)
	}
}

func TestRemovedRecipientCannotOpenWhatIsSealedSince(t *testing.T) {
	w := newWorld(t)
	bob, id := w.person("bob")
	old := w.master
	data := sparse(4, 2<<20)
	var err error
	w.master, _, err = w.vault.RemoveRecipient(w.ctx, "bob", vault.RotateOptions{Now: created})
	w.must(err)
	w.vault = w.open(w.store)
	point := newID()
	w.backup(vault.WriteOptions{Point: point}, source{target: "vda", disk: &disk{data: data}})
	if err := w.opens(w.store, bob, nil); !backstay.IsCode(err, backstay.CodeVaultKey) {
		t.Errorf("bob: %v", err)
	}
	// Even with the keyset that bob may have kept.
	v, err := vault.Open(w.ctx, w.store, vaultID, old)
	w.must(err)
	if _, err := restore(w.ctx, v, point, "vda"); !backstay.IsCode(err, backstay.CodeVaultKeyOld) {
		t.Errorf("with the keyset of before: %v", err)
	}
	if headers, err := v.Points(w.ctx); err != nil || len(headers) != 1 || !backstay.IsCode(headers[0].Damage, backstay.CodeVaultKeyOld) {
		t.Errorf("points: %+v %v", headers, err)
	}
	if _, _, err := w.vault.RemoveRecipient(w.ctx, id, vault.RotateOptions{Now: created}); !backstay.IsCode(err, backstay.CodeNoSuchRecipient) {
		t.Errorf("removed twice: %v", err)
	}
	w.must(w.opens(w.store, w.owner, map[backstay.PointID][]byte{point: data}))
}

func TestVaultWithoutRecoveryRecipientIsRefusedUnlessForced(t *testing.T) {
	w := newWorld(t)
	_, server, err := vault.NewIdentity()
	w.must(err)
	o := vault.CreateOptions{ID: vaultID, Name: "main", Recipients: vault.Recipients(backstay.ForServer, server), Created: created}
	if _, err := vault.Create(w.ctx, mem.New(), o); !backstay.IsCode(err, backstay.CodeNoRecovery) || !strings.Contains(err.Error(), "every recovery point") {
		t.Errorf("created: %v", err)
	}
	o.NoRecovery = true
	_, err = vault.Create(w.ctx, mem.New(), o)
	w.must(err)
	only := w.vault.Recipients()[0].ID
	w.person("bob")
	if _, _, err := w.vault.RemoveRecipient(w.ctx, only, vault.RotateOptions{Now: created}); !backstay.IsCode(err, backstay.CodeNoRecovery) {
		t.Errorf("the last recovery recipient is removed: %v", err)
	}
	w.master, _, err = w.vault.RemoveRecipient(w.ctx, only, vault.RotateOptions{Now: created, NoRecovery: true})
	w.must(err)
	w.vault = w.open(w.store)
	if _, _, err := w.vault.RemoveRecipient(w.ctx, "bob", vault.RotateOptions{Now: created, NoRecovery: true}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("the last recipient is removed: %v", err)
	}
}

// faulty is the world's vault on three copies, each behind the same fault: its
// count goes over the puts to all of them.
func (w *world) faulty(f *fault.Fault) blob.Store {
	var copies []blob.Store
	for _, c := range w.copies {
		copies = append(copies, fault.Wrap(c, f))
	}
	return replica.New(copies...)
}

// A change of the keys that is killed at any put or delete leaves a vault that
// everybody can open, with the old keys or the new ones, and that can be changed.
func TestKilledAtAnyStepOfAKeyChangeTheVaultOpens(t *testing.T) {
	changes := map[string]func(*world, *vault.Vault) error{
		"rotate": func(w *world, v *vault.Vault) error {
			_, _, err := v.Rotate(w.ctx, vault.RotateOptions{Now: created})
			return err
		},
		"add": func(w *world, v *vault.Vault) error {
			_, recipient, err := vault.NewIdentity()
			w.must(err)
			_, err = v.AddRecipient(w.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson}, created)
			return err
		},
		"remove": func(w *world, v *vault.Vault) error {
			_, _, err := v.RemoveRecipient(w.ctx, "carol", vault.RotateOptions{Now: created})
			return err
		},
	}
	for name, change := range changes {
		for _, kind := range []fault.Kind{fault.Fail, fault.FailLate} {
			for _, call := range []fault.Call{fault.Put, fault.Delete} {
				if kind == fault.FailLate && call == fault.Delete {
					continue // only puts fail late
				}
				for nth := 1; ; nth++ {
					if !killedAt(t, &fault.Fault{Kind: kind, Call: call, Nth: nth, Onwards: true}, change) {
						if call == fault.Put && nth < 4 {
							t.Fatalf("%s: only %d %ss", name, nth-1, call)
						}
						break
					}
				}
			}
		}
	}
}

// killedAt tells whether the fault was hit.
func killedAt(t *testing.T, f *fault.Fault, change func(*world, *vault.Vault) error) bool {
	t.Helper()
	w := newWorld(t)
	bob, _ := w.person("bob")
	w.person("carol")
	point, data := newID(), sparse(6, 200<<10)
	w.backup(vault.WriteOptions{Point: point}, source{target: "vda", disk: &disk{data: data}})
	points := map[backstay.PointID][]byte{point: data}
	err := change(w, w.open(w.faulty(f)))
	if f.Hits() == 0 {
		w.must(err)
		return false
	}
	if err == nil && f.Call == fault.Put {
		// Only the chain's record may be missing: the keys are changed already.
		keys, err := w.vault.Keys(w.ctx)
		if !backstay.IsCode(err, backstay.CodeVaultRolledBack) && (err != nil || keys.Generation < 4) {
			t.Fatalf("%s %d: said to be done: %+v %v", f.Kind, f.Nth, keys, err)
		}
	}
	// One copy alone, each in turn, and all of them.
	for _, s := range []blob.Store{w.store, w.copies[0], w.copies[1], w.copies[2]} {
		for who, identity := range map[string]backstay.Secret{"owner": w.owner, "bob": bob} {
			if err := w.opens(s, identity, points); err != nil {
				t.Fatalf("%s %s %d: %s: %v", f.Kind, f.Call, f.Nth, who, err)
			}
		}
	}
	_, w.master, err = vault.Unwrap(w.ctx, w.store, w.owner)
	w.must(err)
	w.vault = w.open(w.store)
	later := newID()
	w.backup(vault.WriteOptions{Point: later}, source{target: "vda", disk: &disk{data: data}})
	w.rotate(vault.RotateOptions{})
	points[later] = data
	w.must(w.opens(w.store, bob, points))
	keys, err := w.vault.Keys(w.ctx)
	if err != nil || len(keys.Problems) > 0 || len(w.objects("keys/")) != len(keys.Recipients) {
		t.Fatalf("%s %s %d: after the next change: %+v, %v, wrapped objects %v", f.Kind, f.Call, f.Nth, keys, err, w.objects("keys/"))
	}
	return true
}

// What is begun is sealed with keys of which every copy knows the header.
func TestNewEpochIsNotUsedBeforeEveryCopyHasIt(t *testing.T) {
	w := newWorld(t)
	f := &fault.Fault{Kind: fault.Fail, Prefix: "headers/", Nth: 2, Onwards: true}
	if _, _, err := w.open(w.faulty(f)).Rotate(w.ctx, vault.RotateOptions{Now: created}); err == nil || f.Hits() == 0 {
		t.Fatalf("rotated: %v", err)
	}
	var err error
	_, w.master, err = vault.Unwrap(w.ctx, w.store, w.owner)
	w.must(err)
	w.vault = w.open(w.store)
	if n, _ := w.vault.Generation(); n != 2 || len(w.vault.Problems(w.ctx)) != 2 {
		t.Errorf("generation %d, problems %v", n, w.vault.Problems(w.ctx))
	}
	point := newID()
	w.backup(vault.WriteOptions{Point: point}, source{target: "vda", disk: &disk{data: sparse(7, 1<<20)}})
	if epoch := w.get(0, "points/"+string(point))[51]; epoch != 1 {
		t.Errorf("sealed with epoch %d", epoch)
	}
}

func TestHeaderThatVanishedIsNoticed(t *testing.T) {
	w := newWorld(t)
	old := w.master
	w.rotate(vault.RotateOptions{})
	for _, c := range w.copies {
		w.must(c.Delete(w.ctx, "headers/00000002.json"))
	}
	if _, err := vault.Open(w.ctx, w.store, vaultID, w.master); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("opened with the keys of a header that is gone: %v", err)
	}
	_, err := vault.Open(w.ctx, w.store, vaultID, old)
	w.must(err)
}

// The chain outlives a header that was taken away on every storage unit.
func TestChainTellsOfEveryHeader(t *testing.T) {
	w := newWorld(t)
	keys, err := seal.NewKeys(vaultID, w.master)
	w.must(err)
	log := chain.Open(w.store, keys.ChainMAC)
	_, err = log.Append(w.ctx, func(chain.State) (chain.Record, error) {
		return chain.Record{Time: created, Op: chain.Commit, Point: newID(), Root: chain.Hash{1}}, nil
	})
	w.must(err)
	old := w.master
	w.rotate(vault.RotateOptions{})
	state, err := log.Read(w.ctx)
	w.must(err)
	n, hash := w.vault.Generation()
	if state.HeaderGeneration != 2 || n != 2 || state.HeaderHash != hash || w.vault.Follows(state) != nil {
		t.Errorf("chain: %+v, header %d", state, n)
	}
	for _, c := range w.copies {
		w.must(c.Delete(w.ctx, "headers/00000002.json"))
	}
	v, err := vault.Open(w.ctx, w.store, vaultID, old)
	w.must(err)
	if err := v.Follows(state); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("a header is gone: %v", err)
	}
	if said, err := v.Keys(w.ctx); err != nil || len(said.Problems) == 0 {
		t.Errorf("a header is gone: %+v %v", said, err)
	}
	if _, _, err := v.Rotate(w.ctx, vault.RotateOptions{Now: created}); !backstay.IsCode(err, backstay.CodeVaultRolledBack) {
		t.Errorf("rotated on an older state: %v", err)
	}
}

func TestHeaderThatDoesNotAuthenticateIsReportedAndNotUsed(t *testing.T) {
	w := newWorld(t)
	other := newWorld(t)
	w.rotate(vault.RotateOptions{})
	other.rotate(vault.RotateOptions{})
	good := w.get(0, "headers/00000002.json")
	for what, bad := range map[string][]byte{
		"nonsense":          []byte("nonsense"),
		"another vault's":   other.get(0, "headers/00000002.json"),
		"an older one":      w.get(0, "vault.json"),
		"with one bit more": append(slices.Clone(good[:40]), append([]byte{good[40] ^ 1}, good[41:]...)...),
	} {
		for _, name := range []string{"headers/00000002.json", "headers/00000003.json", "headers/99999999.json"} {
			w.copies[1].Replace(name, bad)
			v, err := vault.Open(w.ctx, w.store, vaultID, w.master)
			w.must(err)
			if n, _ := v.Generation(); n != 2 || len(v.Problems(w.ctx)) == 0 {
				t.Errorf("%s as %s: generation %d, problems %v", what, name, n, v.Problems(w.ctx))
			}
			w.must(w.opens(w.store, w.owner, nil))
			w.must(w.copies[1].Delete(w.ctx, name))
			w.copies[1].Replace("headers/00000002.json", good)
		}
	}
}

// age does not say who wrapped: somebody who can write to a storage unit can
// wrap other keys for our recipients, and sign a header with them.
func TestStorageUnitsOfTwoVaultsAreRefused(t *testing.T) {
	w := newWorld(t)
	forged := mem.New()
	recipient, err := vault.Recipient(w.owner)
	w.must(err)
	_, err = vault.Create(w.ctx, forged, vault.CreateOptions{ID: vaultID, Name: "main", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: created})
	w.must(err)
	_, _, err = vault.Unwrap(w.ctx, replica.New(forged, w.copies[1], w.copies[2]), w.owner)
	if !backstay.IsCode(err, backstay.CodeVaultKey) || !strings.Contains(err.Error(), "two vaults") {
		t.Errorf("unwrapped: %v", err)
	}
	// With the keys at hand there is no doubt.
	v, err := vault.Open(w.ctx, replica.New(forged, w.copies[1], w.copies[2]), vaultID, w.master)
	w.must(err)
	if v.KeyID() != w.vault.KeyID() || len(v.Problems(w.ctx)) == 0 {
		t.Errorf("key id %s, problems %v", v.KeyID(), v.Problems(w.ctx))
	}
}

func TestSwappedWrappedObjectIsRefused(t *testing.T) {
	w := newWorld(t)
	bob, _ := w.person("bob")
	other := newWorld(t)
	recipient, err := vault.Recipient(bob)
	w.must(err)
	_, err = other.vault.AddRecipient(w.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson}, created)
	w.must(err)
	for what, from := range map[string]*world{"of the same vault": w, "of another vault": other} {
		for _, name := range w.objects("keys/") {
			good := w.get(0, name)
			for _, theirs := range from.objects("keys/") {
				if from == w && theirs == name {
					continue
				}
				for _, c := range w.copies {
					c.Replace(name, from.get(0, theirs))
				}
				failed := 0
				for _, identity := range []backstay.Secret{w.owner, bob} {
					if err := w.opens(w.store, identity, nil); err != nil {
						failed++
						if !backstay.IsCode(err, backstay.CodeDamaged) {
							t.Errorf("wrapped object %s: %v", what, err)
						}
					}
				}
				if failed != 1 {
					t.Errorf("wrapped object %s: %d of two recipients are refused", what, failed)
				}
				keys, err := w.vault.Keys(w.ctx)
				if err != nil || len(keys.Problems) == 0 {
					t.Errorf("wrapped object %s: problems %v, %v", what, keys.Problems, err)
				}
			}
			for _, c := range w.copies {
				c.Replace(name, good)
			}
		}
	}
}

func TestEscrowCheckFailsWithAnotherKeyAndOnDamage(t *testing.T) {
	w := newWorld(t)
	stranger, _, err := vault.NewIdentity()
	w.must(err)
	if out, err := vault.EscrowCheck(w.ctx, w.store, stranger); !backstay.IsCode(err, backstay.CodeVaultKey) || out.OK {
		t.Errorf("a stranger's key: %+v %v", out, err)
	}
	out, err := vault.EscrowCheck(w.ctx, w.store, w.owner)
	if err != nil || !out.OK || len(out.Problems) != 1 {
		t.Errorf("empty vault: %+v %v", out, err)
	}
	w.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(8, 1<<20)}})
	for _, prefix := range []string{"keys/", "points/", "packs/"} {
		for _, name := range w.objects(prefix) {
			good := w.get(0, name)
			bad := slices.Clone(good)
			bad[len(bad)/2] ^= 1
			w.copies[2].Replace(name, bad)
			if out, err := vault.EscrowCheck(w.ctx, w.store, w.owner); err != nil || !out.OK || prefix == "keys/" && (out.Copies != 2 || len(out.Problems) == 0) {
				t.Errorf("one copy of %s damaged: %+v %v", prefix, out, err)
			}
			for _, c := range w.copies {
				c.Replace(name, bad)
			}
			if out, err := vault.EscrowCheck(w.ctx, w.store, w.owner); !backstay.IsCode(err, backstay.CodeDamaged) || out.OK {
				t.Errorf("%s damaged: %+v %v", prefix, out, err)
			}
			for _, c := range w.copies {
				c.Replace(name, good)
			}
		}
	}
}

// The wrapped objects that a change of keys deletes are missed by nobody.
func TestScrubThatKeysWereChangedUnderFindsNoDamage(t *testing.T) {
	w := newWorld(t)
	w.person("bob")
	w.backup(vault.WriteOptions{Point: newID()}, source{target: "vda", disk: &disk{data: sparse(8, 1<<20)}})
	before := w.vault
	w.rotate(vault.RotateOptions{})
	for _, v := range []*vault.Vault{before, w.vault} {
		report, err := v.Scrub(w.ctx, vault.ScrubOptions{})
		if err != nil || len(report.Damages) > 0 {
			t.Errorf("%+v %v", report.Damages, err)
		}
	}
	name := w.objects("keys/")[0]
	for _, c := range w.copies {
		w.must(c.Delete(w.ctx, name))
	}
	if report, err := w.vault.Scrub(w.ctx, vault.ScrubOptions{}); err != nil || len(report.Damages) != 1 {
		t.Errorf("a wrapped key that is needed is gone: %+v %v", report.Damages, err)
	}
}

func TestOfTwoKeyChangesOneWins(t *testing.T) {
	w := newWorld(t)
	a, b := w.open(w.store), w.open(w.store)
	_, _, err := a.Rotate(w.ctx, vault.RotateOptions{Now: created})
	w.must(err)
	if _, _, err := b.Rotate(w.ctx, vault.RotateOptions{Now: created}); !backstay.IsCode(err, backstay.CodeVaultKeyOld) {
		t.Errorf("rotated with old keys: %v", err)
	}
}

// No key is in an error, a result, or the vault in clear (I10).
func TestNoKeyIsToldOrStoredInClear(t *testing.T) {
	w := newWorld(t)
	_, err := w.vault.AddRecipient(w.ctx, vault.NewRecipient{Passphrase: secret(passphrase), Purpose: backstay.ForPerson}, created)
	w.must(err)
	keys, err := w.vault.Keys(w.ctx)
	w.must(err)
	var said []string
	said = append(said, fmt.Sprintf("%+v %+v", keys, w.master))
	mistaken := string(w.owner.Reveal())
	for _, n := range []vault.NewRecipient{{Recipient: mistaken, Purpose: backstay.ForPerson}, {Recipient: mistaken[:30], Purpose: backstay.ForPerson}} {
		_, err := w.vault.AddRecipient(w.ctx, n, created)
		said = append(said, fmt.Sprintf("%+v %#v", err, backstay.AsError(err)))
	}
	for _, text := range []string{mistaken + "x", mistaken[:40], "x" + mistaken} {
		_, _, err := vault.Unwrap(w.ctx, w.store, secret(text))
		said = append(said, fmt.Sprintf("%+v %#v", err, backstay.AsError(err)))
	}
	_, _, err = vault.Unwrap(w.ctx, w.store, vault.Passphrase(secret(passphrase+"?")))
	said = append(said, fmt.Sprintf("%+v %#v", err, backstay.AsError(err)))
	for _, name := range w.objects("") {
		said = append(said, name, string(w.get(0, name)))
	}
	for _, text := range said {
		for _, s := range []string{mistaken[16:40], passphrase, string(w.master.Reveal())[60:80]} {
			if strings.Contains(text, s) {
				t.Errorf("%q is in %q", s, text)
			}
		}
	}
}

// A vault of an older release, which is not written any more, can still get more
// recipients, such as the server that takes it in.
func TestVersion1VaultGetsRecipientsAndStaysAsItIs(t *testing.T) {
	dir := t.TempDir()
	if err := os.CopyFS(dir, os.DirFS("testdata/v1")); err != nil {
		t.Fatal(err)
	}
	key, err := os.ReadFile("testdata/v1-recovery-key.txt")
	if err != nil {
		t.Fatal(err)
	}
	w := &world{t: t, ctx: t.Context(), store: file.New(dir)}
	id, keyset, err := vault.Unwrap(w.ctx, w.store, backstay.NewSecret(key))
	w.must(err)
	v, err := vault.Open(w.ctx, w.store, id, keyset)
	w.must(err)
	identity, recipient, err := vault.NewIdentity()
	w.must(err)
	_, err = v.AddRecipient(w.ctx, vault.NewRecipient{Recipient: recipient, Purpose: backstay.ForPerson, Label: "new"}, created)
	w.must(err)
	points := map[backstay.PointID][]byte{goldenFirst: goldenDisk(1), goldenSecond: goldenDisk(2)}
	check := func(checked int) {
		t.Helper()
		for _, identity := range []backstay.Secret{identity, backstay.NewSecret(key)} {
			w.must(w.opens(w.store, identity, points))
			out, err := vault.EscrowCheck(w.ctx, w.store, identity)
			if err != nil || !out.OK || len(out.Checked) != checked || len(out.Problems) > 0 {
				t.Errorf("escrow-check: %+v %v", out, err)
			}
		}
	}
	check(4)
	_, said, err := v.Rotate(w.ctx, vault.RotateOptions{Now: created})
	w.must(err)
	if said.Epoch != 2 || said.Generation != 3 || len(said.Recipients) != 2 || said.Recipients[0].Purpose != backstay.ForRecovery || len(said.Problems) > 0 {
		t.Errorf("%+v", said)
	}
	check(4)
	_, keyset, err = vault.Unwrap(w.ctx, w.store, identity)
	w.must(err)
	v, err = vault.Open(w.ctx, w.store, id, keyset)
	w.must(err)
	if _, err := v.Begin(w.ctx, vault.WriteOptions{Point: newID()}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("a vault of version 1 is written: %v", err)
	}
}
