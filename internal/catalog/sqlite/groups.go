package sqlite

import (
	"context"
	"database/sql"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// CreateGroup implements catalog.Groups.
func (s *store) CreateGroup(ctx context.Context, g backstay.Group) error {
	return during("create", "group", g.Name, s.write(ctx, func(tx *sql.Tx) error {
		body, err := encode(g)
		if err != nil {
			return err
		}
		if err := insert(ctx, tx, `INSERT INTO vm_groups (name, body) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, string(g.Name), body); err != nil {
			return err
		}
		for _, vm := range g.VMs {
			err := insert(ctx, tx, `INSERT INTO group_members (vm, group_name) VALUES ($1, $2) ON CONFLICT (vm) DO NOTHING`, string(vm.UUID), string(g.Name))
			if err != nil {
				return err
			}
		}
		return nil
	}))
}

// insert runs an insert that does nothing on a conflict, which is ErrExists.
func insert(ctx context.Context, tx *sql.Tx, query string, args ...any) error {
	result, err := tx.ExecContext(ctx, query, args...)
	if err != nil {
		return err
	}
	n, err := result.RowsAffected()
	if err == nil && n == 0 {
		return catalog.ErrExists
	}
	return err
}

// Group implements catalog.Groups.
func (s *store) Group(ctx context.Context, name backstay.GroupName) (backstay.Group, error) {
	g, err := one[backstay.Group](ctx, s.reader, `SELECT body FROM vm_groups WHERE name = $1`, string(name))
	return g, during("read", "group", name, err)
}

// GroupOf implements catalog.Groups.
func (s *store) GroupOf(ctx context.Context, vm backstay.VMID) (backstay.Group, error) {
	g, err := one[backstay.Group](ctx, s.reader,
		`SELECT body FROM vm_groups WHERE name = (SELECT group_name FROM group_members WHERE vm = $1)`, string(vm))
	return g, during("read", "group of VM", vm, err)
}

// ListGroups implements catalog.Groups.
func (s *store) ListGroups(ctx context.Context) ([]backstay.Group, error) {
	list, err := all[backstay.Group](ctx, s.reader, `SELECT body FROM vm_groups ORDER BY name`)
	return list, during("list", "groups", "", err)
}

// DeleteGroup implements catalog.Groups.
func (s *store) DeleteGroup(ctx context.Context, name backstay.GroupName) error {
	return during("delete", "group", name,
		s.exec(ctx, catalog.ErrNotFound, `DELETE FROM vm_groups WHERE name = $1`, string(name)))
}
