package catalog

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// Units keeps the storage units that the region knows. Which vaults are on one is
// in the vaults' own rows: Unit.Vaults is not kept here.
type Units interface {
	// CreateUnit inserts; ErrExists if there is one of this URL.
	CreateUnit(ctx context.Context, u backstay.Unit) error
	// ChangeUnit reads, changes and writes in one transaction.
	ChangeUnit(ctx context.Context, url string, change func(*backstay.Unit) error) error
	// Unit returns one unit.
	Unit(ctx context.Context, url string) (backstay.Unit, error)
	// ListUnits returns all units, by URL.
	ListUnits(ctx context.Context) ([]backstay.Unit, error)
	// DeleteUnit forgets the unit; what is on it stays.
	DeleteUnit(ctx context.Context, url string) error
}
