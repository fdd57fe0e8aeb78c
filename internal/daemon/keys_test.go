package daemon

import (
	"bytes"
	"encoding/json"
	"os"
	"path/filepath"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/tier/vault"
)

// Several people open one vault over the API, keys are rotated, and a key is
// proved; nothing of a secret is left behind.
func TestWhoCanOpenAVaultIsChangedOverTheAPI(t *testing.T) {
	region := newRegion(t)
	c, stop := start(t, region)
	ctx := t.Context()
	const name, passphrase = backstay.VaultName("default"), "correct horse battery staple"
	must := func(err error) {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
	}
	keys, err := c.VaultKeys(ctx, name)
	must(err)
	if keys.Generation != 1 || len(keys.Recipients) != 2 || keys.Recipients[0].Purpose != backstay.ForServer || len(keys.Problems) > 0 {
		t.Errorf("new vault: %+v", keys)
	}
	row, err := c.Vault(ctx, name)
	must(err)
	if row.KeyID != keys.KeyID || row.KeyID == "" {
		t.Errorf("the catalogue has the key %q, the vault %q", row.KeyID, keys.KeyID)
	}
	identity, recipient, err := vault.NewIdentity()
	must(err)
	bob := string(identity.Reveal())
	_, err = c.AddVaultRecipient(ctx, name, api.AddRecipientRequest{Recipient: recipient, Label: "bob"})
	must(err)
	keys, err = c.RotateVaultKeys(ctx, name, api.RotateKeysRequest{})
	must(err)
	if keys.Epoch != 2 || keys.Generation != 3 || len(keys.Problems) > 0 {
		t.Errorf("rotated: %+v", keys)
	}
	for _, r := range []api.EscrowCheckRequest{{Key: region.RecoveryKey}, {Key: "# my key\n" + bob + "\n"}} {
		out, err := c.CheckEscrow(ctx, name, r)
		if err != nil || !out.OK || out.Copies != 3 || out.Epoch != 2 {
			t.Errorf("escrow-check: %+v %v", out, err)
		}
	}
	if _, err := c.RemoveVaultRecipient(ctx, name, api.RemoveRecipientRequest{Recipient: keys.Recipients[0].ID}); !backstay.IsCode(err, backstay.CodeConflict) {
		t.Errorf("the server took its own key out: %v", err)
	}
	keys, err = c.RemoveVaultRecipient(ctx, name, api.RemoveRecipientRequest{Recipient: "bob"})
	must(err)
	if _, err := c.CheckEscrow(ctx, name, api.EscrowCheckRequest{Key: bob}); !backstay.IsCode(err, backstay.CodeVaultKey) || keys.Epoch != 3 {
		t.Errorf("bob after he was removed: %+v %v", keys, err)
	}
	_, err = c.AddVaultRecipient(ctx, name, api.AddRecipientRequest{Passphrase: passphrase, Purpose: backstay.ForRecovery})
	must(err)
	out, err := c.CheckEscrow(ctx, name, api.EscrowCheckRequest{Passphrase: passphrase})
	if err != nil || !out.OK || out.Recipient.Kind != backstay.KindPassphrase {
		t.Errorf("passphrase: %+v %v", out, err)
	}
	_, err = c.VaultUsage(ctx, name) // opens the vault with the new keys
	must(err)
	for _, r := range []api.EscrowCheckRequest{{}, {Key: bob, Passphrase: passphrase}, {Key: "AGE-SECRET-KEY-1NONSENSE"}} {
		if _, err := c.CheckEscrow(ctx, name, r); err == nil || strings.Contains(err.Error(), "NONSENSE") {
			t.Errorf("escrow-check of %v: %v", r, err)
		}
	}
	audit, err := c.Audit(ctx, 0, 1000)
	must(err)
	told, err := json.Marshal(audit)
	must(err)
	must(stop())
	holds(t, "the audit log", told, bob, passphrase, region.RecoveryKey)
	must(filepath.Walk(filepath.Dir(region.ConfigPath), func(path string, info os.FileInfo, err error) error {
		if err != nil || !info.Mode().IsRegular() {
			return err
		}
		data, err := os.ReadFile(path)
		holds(t, path, data, bob, passphrase, region.RecoveryKey)
		return err
	}))
}

// holds fails the test if a secret is in data.
func holds(t *testing.T, what string, data []byte, secrets ...string) {
	t.Helper()
	for _, s := range secrets {
		if bytes.Contains(data, []byte(s)) {
			t.Errorf("%s holds a secret", what)
		}
	}
}

// Keys that somebody else put on the storage units are not used: whoever can
// write there can wrap other keys for this server (age does not say who wrapped).
func TestVaultWithAnotherKeyThanTheCatalogueKnowsIsNotUsed(t *testing.T) {
	region := newRegion(t)
	c, stop := start(t, region)
	row, err := c.Vault(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	keys, err := c.VaultKeys(t.Context(), "default")
	if err != nil {
		t.Fatal(err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
	var u units
	var urls []string
	for _, unit := range row.Units {
		folder := strings.TrimPrefix(unit.URL, "file://")
		for _, part := range []string{"vault.json", "keys", "chain"} {
			if err := os.RemoveAll(filepath.Join(folder, part)); err != nil {
				t.Fatal(err)
			}
		}
		urls = append(urls, unit.URL)
	}
	s, err := u.store(t.Context(), urls)
	if err != nil {
		t.Fatal(err)
	}
	_, err = vault.Create(t.Context(), s, vault.CreateOptions{ID: row.ID, Name: row.Name, Redundancy: row.Redundancy, Created: row.Created, NoRecovery: true,
		Recipients: vault.Recipients(backstay.ForServer, keys.Recipients[0].Recipient)})
	if err != nil {
		t.Fatal(err)
	}
	c, stop = start(t, region)
	if _, err := c.VaultUsage(t.Context(), "default"); !backstay.IsCode(err, backstay.CodeVaultKey) || !strings.Contains(err.Error(), "another key") {
		t.Errorf("a vault with another key is used: %v", err)
	}
	if err := stop(); err != nil {
		t.Fatal(err)
	}
}
