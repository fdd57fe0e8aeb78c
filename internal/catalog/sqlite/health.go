package sqlite

import (
	"context"
	"database/sql"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const readHealth = `SELECT body FROM health WHERE vault = $1`

// VaultHealth implements catalog.Health.
func (s *store) VaultHealth(ctx context.Context, vault backstay.VaultName) (backstay.VaultHealth, error) {
	h, err := one[backstay.VaultHealth](ctx, s.reader, readHealth, string(vault))
	if errors.Is(err, catalog.ErrNotFound) {
		return backstay.VaultHealth{Vault: vault}, nil
	}
	return h, during("read", "health of vault", vault, err)
}

// ChangeVaultHealth implements catalog.Health.
func (s *store) ChangeVaultHealth(ctx context.Context, vault backstay.VaultName, change func(*backstay.VaultHealth) error) error {
	return during("change", "health of vault", vault, s.write(ctx, func(tx *sql.Tx) error {
		h, err := one[backstay.VaultHealth](ctx, tx, readHealth, string(vault))
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		if err := change(&h); err != nil {
			return err
		}
		h.Vault = vault
		body, err := encode(h)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO health (vault, body) VALUES ($1, $2)
			ON CONFLICT (vault) DO UPDATE SET body = excluded.body`, string(vault), body)
		return err
	}))
}
