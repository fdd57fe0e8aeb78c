package sqlite

import (
	"context"
	"database/sql"
	"encoding/json"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

const (
	readDrill     = `SELECT body FROM drills WHERE id = $1`
	readDrillPlan = `SELECT body FROM drill_plans WHERE name = $1`
)

// AppendDrill implements catalog.Drills.
func (s *store) AppendDrill(ctx context.Context, r backstay.DrillRecord) (kept backstay.DrillRecord, err error) {
	return kept, during("append", "drill", r.ID, s.write(ctx, func(tx *sql.Tx) error {
		kept, err = one[backstay.DrillRecord](ctx, tx, readDrill, string(r.ID))
		if !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		last, err := one[backstay.DrillRecord](ctx, tx, `SELECT body FROM drills ORDER BY seq DESC LIMIT 1`)
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return err
		}
		r.Seq, r.Previous, r.Hash = last.Seq+1, last.Hash, ""
		// The hash is of what will be read back.
		body, err := encode(r)
		if err != nil {
			return err
		}
		kept = backstay.DrillRecord{}
		if err := json.Unmarshal([]byte(body), &kept); err != nil {
			return fmt.Errorf("decode: %w", err)
		}
		if kept.Hash, err = kept.Digest(); err != nil {
			return err
		}
		if body, err = encode(kept); err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `INSERT INTO drills (seq, id, body) VALUES ($1, $2, $3)`, kept.Seq, string(kept.ID), body)
		return err
	}))
}

// Drill implements catalog.Drills.
func (s *store) Drill(ctx context.Context, id backstay.DrillID) (backstay.DrillRecord, error) {
	r, err := one[backstay.DrillRecord](ctx, s.reader, readDrill, string(id))
	return r, during("read", "drill", id, err)
}

// ListDrills implements catalog.Drills.
func (s *store) ListDrills(ctx context.Context, limit int) ([]backstay.DrillRecord, error) {
	if limit <= 0 {
		limit = -1
	}
	list, err := all[backstay.DrillRecord](ctx, s.reader, `SELECT body FROM drills ORDER BY seq DESC LIMIT $1`, limit)
	return list, during("list", "drills", "", err)
}

// CreateDrillPlan implements catalog.DrillPlans.
func (s *store) CreateDrillPlan(ctx context.Context, p backstay.DrillPlan) error {
	return during("create", "plan of drills", p.Name, s.put(ctx, catalog.ErrExists, p,
		`INSERT INTO drill_plans (name, body) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, string(p.Name)))
}

// ChangeDrillPlan implements catalog.DrillPlans.
func (s *store) ChangeDrillPlan(ctx context.Context, name backstay.DrillName, change func(*backstay.DrillPlan) error) error {
	return during("change", "plan of drills", name, s.write(ctx, func(tx *sql.Tx) error {
		p, err := one[backstay.DrillPlan](ctx, tx, readDrillPlan, string(name))
		if err != nil {
			return err
		}
		if err := change(&p); err != nil {
			return err
		}
		p.Name = name
		body, err := encode(p)
		if err != nil {
			return err
		}
		_, err = tx.ExecContext(ctx, `UPDATE drill_plans SET body = $2 WHERE name = $1`, string(name), body)
		return err
	}))
}

// DrillPlan implements catalog.DrillPlans.
func (s *store) DrillPlan(ctx context.Context, name backstay.DrillName) (backstay.DrillPlan, error) {
	p, err := one[backstay.DrillPlan](ctx, s.reader, readDrillPlan, string(name))
	return p, during("read", "plan of drills", name, err)
}

// ListDrillPlans implements catalog.DrillPlans.
func (s *store) ListDrillPlans(ctx context.Context) ([]backstay.DrillPlan, error) {
	list, err := all[backstay.DrillPlan](ctx, s.reader, `SELECT body FROM drill_plans ORDER BY name`)
	return list, during("list", "plans of drills", "", err)
}

// DeleteDrillPlan implements catalog.DrillPlans.
func (s *store) DeleteDrillPlan(ctx context.Context, name backstay.DrillName) error {
	return during("delete", "plan of drills", name, s.exec(ctx, catalog.ErrNotFound, `DELETE FROM drill_plans WHERE name = $1`, string(name)))
}
