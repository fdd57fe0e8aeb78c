package daemon

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// readDamage keeps which copies of a vault's objects a reader found to be wrong, and
// queues a repair. It is a suspicion: the repair reads each copy again, several
// times, before it condemns one (I5).
func (r *region) readDamage(ctx context.Context, name backstay.VaultName, found []mover.DamagedCopy) error {
	entry, err := r.vaults.entry(ctx, name)
	if err != nil {
		return err
	}
	err = r.catalog.Health.ChangeVaultHealth(ctx, name, func(h *backstay.VaultHealth) error {
		for _, c := range found {
			suspect(h, entry.Units, c)
		}
		if len(h.Copies) != len(entry.Units) {
			h.Copies = make([]backstay.CopyHealth, len(entry.Units))
		}
		h.Settle()
		return nil
	})
	if err != nil {
		return err
	}
	return r.engines.vaults.QueueRepair(ctx, name)
}

// suspect adds a damaged copy to what is known of a vault. Of the other copies of an
// object nothing was read.
func suspect(h *backstay.VaultHealth, units []backstay.StorageUnit, c mover.DamagedCopy) {
	at := slices.IndexFunc(units, func(u backstay.StorageUnit) bool { return u.URL == c.Unit })
	if at < 0 {
		return
	}
	i := slices.IndexFunc(h.Damages, func(d backstay.Damage) bool { return d.Object == c.Object })
	if i < 0 || len(h.Damages[i].Copies) != len(units) || len(h.Damages[i].Why) != len(units) {
		d := backstay.Damage{Object: c.Object}
		for range units {
			d.Copies, d.Why = append(d.Copies, backstay.CopyUnreadable), append(d.Why, "it was not looked at yet")
		}
		if i < 0 {
			i, h.Damages = len(h.Damages), append(h.Damages, d)
		} else {
			h.Damages[i] = d
		}
	}
	h.Damages[i].Copies[at], h.Damages[i].Why[at] = backstay.CopyDamaged, "a restore read wrong bytes there"
}
