package vault

import (
	"context"
	"errors"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
)

// Strangers returns the copies that hold another vault: a disk that is mounted in
// the place of another, a storage unit named by mistake. A copy that cannot be
// read, or of which only the header is wrong, is no stranger.
func (v *Vault) Strangers(ctx context.Context) []int {
	var all []int
	for i, c := range v.opened.copies {
		if len(c.found) == 0 && otherVault(c, v.header.ID) >= 0 && v.hasNoKeyOfOurs(ctx, v.copies[i]) {
			all = append(all, i)
		}
	}
	return all
}

// Unmixed refuses a vault with a stranger among its copies. From there the vault
// looks damaged, and mending that would take the other vault's objects away, so
// whoever writes, repairs or deletes asks first. CodeConflict names the unit.
func (v *Vault) Unmixed(ctx context.Context) error {
	all := v.Strangers(ctx)
	if len(all) == 0 {
		return nil
	}
	i := all[0]
	c := v.opened.copies[i]
	other := c.refused[otherVault(c, v.header.ID)]
	return backstay.Errorf(backstay.CodeConflict, "the storage unit %s holds another vault than %s", unitName(ctx, v.copies[i], i), v.header.Name).
		Becausef("it is the vault %s (%s), and this one is %s", other.Name, other.ID, v.header.ID).
		Do("see that the right disk is mounted there, and the right bucket or container named; nothing was written or deleted")
}

// otherVault returns which of a copy's refused headers names another vault, or -1.
func otherVault(c copyHeaders, id string) int {
	return slices.IndexFunc(c.refused, func(f writtenHeader) bool { return f.ID != id })
}

// hasNoKeyOfOurs tells whether a copy surely has none of the wrapped keys. They
// have random names, so a copy of this vault has one even if its header was
// damaged or swapped.
func (v *Vault) hasNoKeyOfOurs(ctx context.Context, c blob.Store) bool {
	for _, r := range v.header.Recipients {
		if _, err := c.Stat(ctx, r.Object); !errors.Is(err, blob.ErrNotExist) {
			return false
		}
	}
	return true
}
