package sqlite

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// PutTrash implements catalog.Trash.
func (s *store) PutTrash(ctx context.Context, r catalog.TrashRecord) error {
	return during("put", "trash", r.List, s.put(ctx, catalog.ErrExists, r,
		`INSERT INTO trash (vault, list, body) VALUES ($1, $2, $3) ON CONFLICT (vault, list) DO NOTHING`, string(r.Vault), r.List))
}

// ListTrash implements catalog.Trash.
func (s *store) ListTrash(ctx context.Context, vault backstay.VaultName) ([]catalog.TrashRecord, error) {
	list, err := all[catalog.TrashRecord](ctx, s.reader, `SELECT body FROM trash WHERE vault = $1 ORDER BY list`, string(vault))
	return list, during("list", "trash of vault", vault, err)
}

// DeleteTrash implements catalog.Trash.
func (s *store) DeleteTrash(ctx context.Context, vault backstay.VaultName, list string) error {
	return during("delete", "trash", list, s.exec(ctx, nil, `DELETE FROM trash WHERE vault = $1 AND list = $2`, string(vault), list))
}
