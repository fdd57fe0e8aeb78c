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
