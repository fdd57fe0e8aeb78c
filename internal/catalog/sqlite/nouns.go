package sqlite

import (
	"context"
	"database/sql"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// PutHost implements catalog.Hosts.
func (s *store) PutHost(ctx context.Context, h backstay.Host) error {
	return during("put", "host", h.Name, s.put(ctx, nil, h,
		`INSERT INTO hosts (name, body) VALUES ($1, $2)
		 ON CONFLICT (name) DO UPDATE SET body = excluded.body`, string(h.Name)))
}

// Host implements catalog.Hosts.
func (s *store) Host(ctx context.Context, name backstay.HostName) (backstay.Host, error) {
	h, err := one[backstay.Host](ctx, s.reader, `SELECT body FROM hosts WHERE name = $1`, string(name))
	return h, during("read", "host", name, err)
}

// ListHosts implements catalog.Hosts.
func (s *store) ListHosts(ctx context.Context) ([]backstay.Host, error) {
	list, err := all[backstay.Host](ctx, s.reader, `SELECT body FROM hosts ORDER BY name`)
	return list, during("list", "hosts", "", err)
}

// DeleteHost implements catalog.Hosts.
func (s *store) DeleteHost(ctx context.Context, name backstay.HostName) error {
	return during("delete", "host", name, s.write(ctx, func(tx *sql.Tx) error {
		result, err := tx.ExecContext(ctx, `DELETE FROM hosts WHERE name = $1`, string(name))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return orElse(err, catalog.ErrNotFound)
		}
		_, err = tx.ExecContext(ctx, `DELETE FROM vms WHERE host = $1`, string(name))
		return err
	}))
}

func orElse(err, otherwise error) error {
	if err != nil {
		return err
	}
	return otherwise
}

// ReplaceVMs implements catalog.VMs.
func (s *store) ReplaceVMs(ctx context.Context, host backstay.HostName, vms []backstay.VM) error {
	return during("replace", "VMs of host", host, s.write(ctx, func(tx *sql.Tx) error {
		if _, err := tx.ExecContext(ctx, `DELETE FROM vms WHERE host = $1`, string(host)); err != nil {
			return err
		}
		for _, vm := range vms {
			body, err := encode(vm)
			if err != nil {
				return err
			}
			running := 0
			if vm.State == backstay.VMRunning || vm.State == backstay.VMPaused {
				running = 1
			}
			if _, err := tx.ExecContext(ctx,
				`INSERT INTO vms (id, host, name, running, body) VALUES ($1, $2, $3, $4, $5)`,
				string(vm.ID), string(host), vm.Name, running, body); err != nil {
				return err
			}
		}
		return nil
	}))
}

// VM implements catalog.VMs.
func (s *store) VM(ctx context.Context, id backstay.VMID) (backstay.VM, error) {
	vm, err := one[backstay.VM](ctx, s.reader,
		`SELECT body FROM vms WHERE id = $1 ORDER BY running DESC, host LIMIT 1`, string(id))
	return vm, during("read", "VM", id, err)
}

// ListVMs implements catalog.VMs.
func (s *store) ListVMs(ctx context.Context) ([]backstay.VM, error) {
	list, err := all[backstay.VM](ctx, s.reader, `SELECT body FROM vms ORDER BY host, name, id`)
	return list, during("list", "VMs", "", err)
}

// CreateVault implements catalog.Vaults.
func (s *store) CreateVault(ctx context.Context, v backstay.Vault) error {
	return during("create", "vault", v.Name, s.put(ctx, catalog.ErrExists, v,
		`INSERT INTO vaults (name, body) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, string(v.Name)))
}

// UpdateVault implements catalog.Vaults.
func (s *store) UpdateVault(ctx context.Context, v backstay.Vault) error {
	return during("update", "vault", v.Name, s.put(ctx, catalog.ErrNotFound, v,
		`UPDATE vaults SET body = $2 WHERE name = $1`, string(v.Name)))
}

// Vault implements catalog.Vaults.
func (s *store) Vault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	v, err := one[backstay.Vault](ctx, s.reader, `SELECT body FROM vaults WHERE name = $1`, string(name))
	return v, during("read", "vault", name, err)
}

// ListVaults implements catalog.Vaults.
func (s *store) ListVaults(ctx context.Context) ([]backstay.Vault, error) {
	list, err := all[backstay.Vault](ctx, s.reader, `SELECT body FROM vaults ORDER BY name`)
	return list, during("list", "vaults", "", err)
}

// CreatePolicy implements catalog.Policies.
func (s *store) CreatePolicy(ctx context.Context, p backstay.Policy) error {
	return during("create", "policy", p.Name, s.put(ctx, catalog.ErrExists, p,
		`INSERT INTO policies (name, body) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, string(p.Name)))
}

// UpdatePolicy implements catalog.Policies.
func (s *store) UpdatePolicy(ctx context.Context, p backstay.Policy) error {
	return during("update", "policy", p.Name, s.put(ctx, catalog.ErrNotFound, p,
		`UPDATE policies SET body = $2 WHERE name = $1`, string(p.Name)))
}

// Policy implements catalog.Policies.
func (s *store) Policy(ctx context.Context, name backstay.PolicyName) (backstay.Policy, error) {
	p, err := one[backstay.Policy](ctx, s.reader, `SELECT body FROM policies WHERE name = $1`, string(name))
	return p, during("read", "policy", name, err)
}

// ListPolicies implements catalog.Policies.
func (s *store) ListPolicies(ctx context.Context) ([]backstay.Policy, error) {
	list, err := all[backstay.Policy](ctx, s.reader, `SELECT body FROM policies ORDER BY name`)
	return list, during("list", "policies", "", err)
}

// DeletePolicy implements catalog.Policies.
func (s *store) DeletePolicy(ctx context.Context, name backstay.PolicyName) error {
	return during("delete", "policy", name, s.write(ctx, func(tx *sql.Tx) error {
		var used int
		err := tx.QueryRowContext(ctx, `SELECT COUNT(*) FROM items WHERE policy = $1`, string(name)).Scan(&used)
		if err != nil {
			return err
		}
		if used > 0 {
			return catalog.ErrExists
		}
		result, err := tx.ExecContext(ctx, `DELETE FROM policies WHERE name = $1`, string(name))
		if err != nil {
			return err
		}
		if n, err := result.RowsAffected(); err != nil || n == 0 {
			return orElse(err, catalog.ErrNotFound)
		}
		return nil
	}))
}

// PutItem implements catalog.Items.
func (s *store) PutItem(ctx context.Context, i backstay.ProtectedItem) error {
	return during("put", "protected item", i.VM.UUID, s.write(ctx, func(tx *sql.Tx) error {
		return putItem(ctx, tx, i)
	}))
}

// ChangeItem implements catalog.Items.
func (s *store) ChangeItem(ctx context.Context, vm backstay.VMID, change func(*backstay.ProtectedItem) error) error {
	return during("change", "protected item", vm, s.write(ctx, func(tx *sql.Tx) error {
		i, err := one[backstay.ProtectedItem](ctx, tx, `SELECT body FROM items WHERE vm = $1`, string(vm))
		if err != nil {
			return err
		}
		if err := change(&i); err != nil {
			return err
		}
		i.VM.UUID = vm
		return putItem(ctx, tx, i)
	}))
}

func putItem(ctx context.Context, tx *sql.Tx, i backstay.ProtectedItem) error {
	var known int
	err := tx.QueryRowContext(ctx,
		`SELECT (SELECT COUNT(*) FROM policies WHERE name = $1) + (SELECT COUNT(*) FROM vaults WHERE name = $2)`,
		string(i.Policy), string(i.Vault)).Scan(&known)
	if err != nil {
		return err
	}
	if known != 2 {
		return catalog.ErrNotFound
	}
	body, err := encode(i)
	if err != nil {
		return err
	}
	_, err = tx.ExecContext(ctx,
		`INSERT INTO items (vm, policy, vault, body) VALUES ($1, $2, $3, $4)
		 ON CONFLICT (vm) DO UPDATE SET policy = excluded.policy, vault = excluded.vault, body = excluded.body`,
		string(i.VM.UUID), string(i.Policy), string(i.Vault), body)
	return err
}

// Item implements catalog.Items.
func (s *store) Item(ctx context.Context, vm backstay.VMID) (backstay.ProtectedItem, error) {
	i, err := one[backstay.ProtectedItem](ctx, s.reader, `SELECT body FROM items WHERE vm = $1`, string(vm))
	return i, during("read", "protected item", vm, err)
}

// ListItems implements catalog.Items.
func (s *store) ListItems(ctx context.Context) ([]backstay.ProtectedItem, error) {
	list, err := all[backstay.ProtectedItem](ctx, s.reader, `SELECT body FROM items ORDER BY vm`)
	return list, during("list", "protected items", "", err)
}

// DeleteItem implements catalog.Items.
func (s *store) DeleteItem(ctx context.Context, vm backstay.VMID) error {
	return during("delete", "protected item", vm,
		s.exec(ctx, catalog.ErrNotFound, `DELETE FROM items WHERE vm = $1`, string(vm)))
}
