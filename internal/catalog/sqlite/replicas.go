package sqlite

import (
	"context"
	"database/sql"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// PutReplicas implements catalog.Replicas.
func (s *store) PutReplicas(ctx context.Context, records ...catalog.ReplicaRecord) error {
	if len(records) == 0 {
		return nil
	}
	return during("put", "replicas of vault", records[0].Vault, s.write(ctx, func(tx *sql.Tx) error {
		for _, r := range records {
			body, err := encode(r)
			if err != nil {
				return err
			}
			_, err = tx.ExecContext(ctx, `INSERT INTO replicas (region, point, vault, body) VALUES ($1, $2, $3, $4)
				ON CONFLICT (region, point) DO UPDATE SET vault = excluded.vault, body = excluded.body`,
				string(r.Region), string(r.Point), string(r.Vault), body)
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// ListReplicas implements catalog.Replicas.
func (s *store) ListReplicas(ctx context.Context, vault backstay.VaultName) ([]catalog.ReplicaRecord, error) {
	list, err := all[catalog.ReplicaRecord](ctx, s.reader,
		`SELECT body FROM replicas WHERE vault = $1 OR $1 = '' ORDER BY point, region`, string(vault))
	return list, during("list", "replicas of vault", vault, err)
}

// ReplicasOf implements catalog.Replicas.
func (s *store) ReplicasOf(ctx context.Context, point backstay.PointID) ([]catalog.ReplicaRecord, error) {
	list, err := all[catalog.ReplicaRecord](ctx, s.reader, `SELECT body FROM replicas WHERE point = $1 ORDER BY region`, string(point))
	return list, during("list", "replicas of point", point, err)
}

// DeleteReplicas implements catalog.Replicas.
func (s *store) DeleteReplicas(ctx context.Context, region backstay.RegionName, points ...backstay.PointID) error {
	return during("delete", "replicas in region", region, s.write(ctx, func(tx *sql.Tx) error {
		for _, p := range points {
			if _, err := tx.ExecContext(ctx, `DELETE FROM replicas WHERE region = $1 AND point = $2`, string(region), string(p)); err != nil {
				return err
			}
		}
		return nil
	}))
}
