package catalogtest

import (
	"errors"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

func health(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	got, err := c.Health.VaultHealth(ctx, "main")
	must(t, err)
	same(t, got, backstay.VaultHealth{Vault: "main"})
	when := at
	want := backstay.VaultHealth{Vault: "main", Started: &when, Ended: &when, LastRun: &when,
		Copies: []backstay.CopyHealth{{CopyCount: backstay.CopyCount{Objects: 3, Bytes: 7, Damaged: 1}, LastScrubbed: &when}},
		Damages: []backstay.Damage{{Object: "packs/3f/3f", Copies: []backstay.CopyState{backstay.CopyDamaged},
			Why: []string{"another hash"}, Points: []backstay.PointID{"01A"}}},
		Round: &backstay.VerifyRound{Started: at, Cursor: "packs/3f/3f", Objects: 1, Bytes: 2, Copies: []backstay.CopyCount{{Objects: 1}}}}
	must(t, c.Health.ChangeVaultHealth(ctx, "main", func(h *backstay.VaultHealth) error {
		same(t, *h, backstay.VaultHealth{})
		*h = want
		return nil
	}))
	refused := errors.New("no")
	wantErr(t, c.Health.ChangeVaultHealth(ctx, "main", func(h *backstay.VaultHealth) error {
		h.Damages = nil
		return refused
	}), refused)
	got, err = c.Health.VaultHealth(ctx, "main")
	must(t, err)
	same(t, got, want)
	got, err = c.Health.VaultHealth(ctx, "second")
	must(t, err)
	same(t, got, backstay.VaultHealth{Vault: "second"})
}
