package sqlite

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// PutHeld implements catalog.Held.
func (s *store) PutHeld(ctx context.Context, h catalog.HeldPoint) error {
	return during("put", "held point", h.Point, s.put(ctx, nil, h,
		`INSERT INTO held (vault, point, body) VALUES ($1, $2, $3)
		 ON CONFLICT (vault, point) DO UPDATE SET body = excluded.body`, string(h.Vault), string(h.Point)))
}

// HeldPoint implements catalog.Held.
func (s *store) HeldPoint(ctx context.Context, vault backstay.VaultName, point backstay.PointID) (catalog.HeldPoint, error) {
	h, err := one[catalog.HeldPoint](ctx, s.reader, `SELECT body FROM held WHERE vault = $1 AND point = $2`, string(vault), string(point))
	return h, during("read", "held point", point, err)
}

// ListHeld implements catalog.Held.
func (s *store) ListHeld(ctx context.Context, vault backstay.VaultName) ([]catalog.HeldPoint, error) {
	list, err := all[catalog.HeldPoint](ctx, s.reader, `SELECT body FROM held WHERE vault = $1 ORDER BY point`, string(vault))
	return list, during("list", "held points of", vault, err)
}
