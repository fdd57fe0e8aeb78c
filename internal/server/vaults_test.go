package server_test

import (
	"testing"

	backstay "github.com/backstay/backstay"
)

// What a verify found out is in the list of vaults too, in numbers.
func TestTheListOfVaultsHasWhatIsDamaged(t *testing.T) {
	w := start(t)
	err := w.Catalog.Health.ChangeVaultHealth(t.Context(), "default", func(h *backstay.VaultHealth) error {
		h.Copies = []backstay.CopyHealth{{}, {CopyCount: backstay.CopyCount{Damaged: 2}}, {}}
		h.Damages = []backstay.Damage{{Object: "packs/00/00"}}
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	for _, v := range as[[]backstay.Vault](t, w, backstay.Reader, "GET", "/v1/vaults", "") {
		if v.Name == "default" && (v.Units[1].Copy == nil || v.Units[1].Copy.Damaged != 2 || v.Health != nil) {
			t.Errorf("%+v", v)
		}
	}
}

// TestTheRetentionOfAReplicaIsThisRegionsOwn: an owner sets it, of a replica alone.
func TestTheRetentionOfAReplicaIsThisRegionsOwn(t *testing.T) {
	w := start(t)
	held := backstay.Vault{Name: "default@west", ID: "11111111-8f0a-4a53-9c7b-0d6f0e5a7b11", Redundancy: backstay.LRS,
		Origin: &backstay.VaultOrigin{Region: "west", Vault: "default"}}
	if err := w.Catalog.Vaults.CreateVault(t.Context(), held); err != nil {
		t.Fatal(err)
	}
	v := as[backstay.Vault](t, w, backstay.Owner, "PUT", "/v1/vaults/default@west/keep", `{"days":90}`)
	if v.Kept() != (backstay.ReplicaKeep{Days: 90, Points: backstay.DefaultReplicaKeep().Points}) {
		t.Errorf("kept is %+v", v.Kept())
	}
	status, text := ask(t, w, w.Tokens[backstay.Owner], "PUT", "/v1/vaults/default/keep", `{"days":90}`)
	if e := decodeError(t, text); status != 409 || e.Code != backstay.CodeConflict {
		t.Errorf("of a vault of this region: %d %s", status, text)
	}
	refused(t, w, "PUT", "/v1/vms/web01/protection", `{"policy":"daily","vault":"default@west"}`, 409, backstay.CodeConflict)
	if status, text := ask(t, w, w.Tokens[backstay.Owner], "PUT", "/v1/vaults/default@west/keep", `{"points":0}`); status/100 != 4 {
		t.Errorf("no point at all: %d %s", status, text)
	}
}
