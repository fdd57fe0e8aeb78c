package sqlite

import (
	"context"
	"database/sql"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const readUnit = `SELECT body FROM units WHERE url = $1`

// CreateUnit implements catalog.Units.
func (s *store) CreateUnit(ctx context.Context, u backstay.Unit) error {
	u.Vaults = nil
	return during("create", "unit", u.URL, s.put(ctx, catalog.ErrExists, u,
		`INSERT INTO units (url, body) VALUES ($1, $2) ON CONFLICT (url) DO NOTHING`, u.URL))
}

// ChangeUnit implements catalog.Units.
func (s *store) ChangeUnit(ctx context.Context, url string, change func(*backstay.Unit) error) error {
	return during("change", "unit", url, s.write(ctx, func(tx *sql.Tx) error {
		u, err := one[backstay.Unit](ctx, tx, readUnit, url)
		if err != nil {
			return err
		}
		if err := change(&u); err != nil {
			return err
		}
		u.URL, u.Vaults = url, nil
		body, err := encode(u)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE units SET body = $2 WHERE url = $1`, url, body)
		return err
	}))
}

// Unit implements catalog.Units.
func (s *store) Unit(ctx context.Context, url string) (backstay.Unit, error) {
	u, err := one[backstay.Unit](ctx, s.reader, readUnit, url)
	return u, during("read", "unit", url, err)
}

// ListUnits implements catalog.Units.
func (s *store) ListUnits(ctx context.Context) ([]backstay.Unit, error) {
	list, err := all[backstay.Unit](ctx, s.reader, `SELECT body FROM units ORDER BY url`)
	return list, during("list", "units", "", err)
}

// DeleteUnit implements catalog.Units.
func (s *store) DeleteUnit(ctx context.Context, url string) error {
	return during("delete", "unit", url, s.exec(ctx, catalog.ErrNotFound, `DELETE FROM units WHERE url = $1`, url))
}
