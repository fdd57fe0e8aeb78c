package sqlite

import (
	"context"
	"database/sql"
	"encoding/hex"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const putPoint = `INSERT INTO points (id, vm, taken_us, body) VALUES ($1, $2, $3, $4)
	ON CONFLICT (id) DO UPDATE SET vm = excluded.vm, taken_us = excluded.taken_us, body = excluded.body`

// PutPoint implements catalog.Points.
func (s *store) PutPoint(ctx context.Context, p backstay.RecoveryPoint) error {
	return during("put", "point", p.ID,
		s.put(ctx, nil, p, putPoint, string(p.ID), string(p.VM.UUID), micros(p.Time)))
}

// ChangePoint implements catalog.Points.
func (s *store) ChangePoint(ctx context.Context, id backstay.PointID, change func(*backstay.RecoveryPoint) error) error {
	return during("change", "point", id, s.write(ctx, func(tx *sql.Tx) error {
		p, err := one[backstay.RecoveryPoint](ctx, tx, `SELECT body FROM points WHERE id = $1`, string(id))
		if err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		p.ID = id
		body, err := encode(p)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, putPoint, string(id), string(p.VM.UUID), micros(p.Time), body)
		return err
	}))
}

// Point implements catalog.Points.
func (s *store) Point(ctx context.Context, id backstay.PointID) (backstay.RecoveryPoint, error) {
	p, err := one[backstay.RecoveryPoint](ctx, s.reader, `SELECT body FROM points WHERE id = $1`, string(id))
	return p, during("read", "point", id, err)
}

// ListPoints implements catalog.Points.
func (s *store) ListPoints(ctx context.Context, vm backstay.VMID) ([]backstay.RecoveryPoint, error) {
	query, args := `SELECT body FROM points ORDER BY taken_us, id`, []any{}
	if vm != "" {
		query, args = `SELECT body FROM points WHERE vm = $1 ORDER BY taken_us, id`, []any{string(vm)}
	}
	list, err := all[backstay.RecoveryPoint](ctx, s.reader, query, args...)
	return list, during("list", "points of VM", vm, err)
}

// DeletePoint implements catalog.Points.
func (s *store) DeletePoint(ctx context.Context, id backstay.PointID) error {
	return during("delete", "point", id, s.exec(ctx, nil, `DELETE FROM points WHERE id = $1`, string(id)))
}

// Append implements catalog.Audit. The number is given here; Seq of e is not used.
func (s *store) Append(ctx context.Context, e backstay.AuditEntry) error {
	return during("append", "audit entry", e.Action, s.write(ctx, func(tx *sql.Tx) error {
		if err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(seq), 0) + 1 FROM audit`).Scan(&e.Seq); err != nil {
			return err
		}
		body, err := encode(e)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO audit (seq, at_us, body) VALUES ($1, $2, $3)`, e.Seq, micros(e.Time), body)
		return err
	}))
}

// ListAudit implements catalog.Audit.
func (s *store) ListAudit(ctx context.Context, after int64, limit int) ([]backstay.AuditEntry, error) {
	list, err := all[backstay.AuditEntry](ctx, s.reader,
		`SELECT body FROM audit WHERE seq > $1 ORDER BY seq LIMIT $2`, after, atMost(limit))
	return list, during("list", "audit entries after", after, err)
}

// atMost makes 0 mean "no limit", as the largest number both engines take.
func atMost(limit int) int64 {
	if limit <= 0 {
		return 1<<63 - 1
	}
	return int64(limit)
}

// PutToken implements catalog.Tokens.
func (s *store) PutToken(ctx context.Context, t backstay.Token, secretHash [32]byte) error {
	return during("put", "token", t.ID, s.write(ctx, func(tx *sql.Tx) error {
		hash := hex.EncodeToString(secretHash[:])
		var others int
		err := tx.QueryRowContext(ctx,
			`SELECT COUNT(*) FROM tokens WHERE secret_hash = $1 AND id <> $2`, hash, t.ID).Scan(&others)
		if err != nil {
			return err
		}
		if others > 0 {
			return catalog.ErrExists
		}
		body, err := encode(t)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx,
			`INSERT INTO tokens (id, secret_hash, body) VALUES ($1, $2, $3)
			 ON CONFLICT (id) DO UPDATE SET secret_hash = excluded.secret_hash, body = excluded.body`, t.ID, hash, body)
		return err
	}))
}

// TokenByHash implements catalog.Tokens.
func (s *store) TokenByHash(ctx context.Context, secretHash [32]byte) (backstay.Token, error) {
	t, err := one[backstay.Token](ctx, s.reader,
		`SELECT body FROM tokens WHERE secret_hash = $1`, hex.EncodeToString(secretHash[:]))
	return t, during("read", "token", "by its secret", err)
}

// ListTokens implements catalog.Tokens.
func (s *store) ListTokens(ctx context.Context) ([]backstay.Token, error) {
	list, err := all[backstay.Token](ctx, s.reader, `SELECT body FROM tokens ORDER BY id`)
	return list, during("list", "tokens", "", err)
}

// DeleteToken implements catalog.Tokens.
func (s *store) DeleteToken(ctx context.Context, id string) error {
	return during("delete", "token", id, s.exec(ctx, catalog.ErrNotFound, `DELETE FROM tokens WHERE id = $1`, id))
}
