package sqlite

import (
	"context"
	"database/sql"
	"maps"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Region implements catalog.Regions.
func (s *store) Region(ctx context.Context, name backstay.RegionName) (catalog.RegionRecord, error) {
	r, err := one[catalog.RegionRecord](ctx, s.reader, `SELECT body FROM regions WHERE name = $1`, string(name))
	if err == nil && r.Removed {
		r, err = catalog.RegionRecord{}, catalog.ErrNotFound
	}
	return r, during("read", "region", name, err)
}

// ListRegions implements catalog.Regions.
func (s *store) ListRegions(ctx context.Context) ([]catalog.RegionRecord, error) {
	list, err := all[catalog.RegionRecord](ctx, s.reader, `SELECT body FROM regions ORDER BY name`)
	list = slices.DeleteFunc(list, func(r catalog.RegionRecord) bool { return r.Removed })
	return list, during("list", "regions", "", err)
}

// ChangeRegions implements catalog.Regions. There are a few of them at most, so all
// are written.
func (s *store) ChangeRegions(ctx context.Context, change func(map[backstay.RegionName]catalog.RegionRecord) error) error {
	return during("change", "regions", "", s.write(ctx, func(tx *sql.Tx) error {
		list, err := all[catalog.RegionRecord](ctx, tx, `SELECT body FROM regions`)
		if err != nil {
			return err
		}
		known := map[backstay.RegionName]catalog.RegionRecord{}
		for _, r := range list {
			known[r.Name] = r
		}
		if err := change(known); err != nil {
			return err
		}
		if _, err := tx.ExecContext(ctx, `DELETE FROM regions`); err != nil {
			return err
		}
		for _, name := range slices.Sorted(maps.Keys(known)) {
			r := known[name]
			r.Name = name
			body, err := encode(r)
			if err != nil {
				return err
			}
			if _, err := tx.ExecContext(ctx, `INSERT INTO regions (name, body) VALUES ($1, $2)`, string(name), body); err != nil {
				return err
			}
		}
		return nil
	}))
}
