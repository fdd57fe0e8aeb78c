package catalogtest

import (
	"errors"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

func units(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	b := backstay.Unit{URL: "file:///srv/b", Zone: "2", Added: at, Available: -1}
	a := backstay.Unit{URL: "file:///srv/a", Zone: "1", Added: at, State: "ok", Device: "8:1", Available: 7, Checked: &at}
	for _, u := range []backstay.Unit{b, a} {
		must(t, c.Units.CreateUnit(ctx, u))
		wantErr(t, c.Units.CreateUnit(ctx, u), catalog.ErrExists)
	}
	got, err := c.Units.ListUnits(ctx)
	must(t, err)
	same(t, got, []backstay.Unit{a, b})
	must(t, c.Units.ChangeUnit(ctx, b.URL, func(u *backstay.Unit) error {
		// The vaults that are on it are in their own rows.
		u.URL, u.Closed, u.Vaults = "file:///elsewhere", true, []backstay.VaultName{"main"}
		return nil
	}))
	b.Closed = true
	one, err := c.Units.Unit(ctx, b.URL)
	must(t, err)
	same(t, one, b)
	failure := errors.New("no")
	wantErr(t, c.Units.ChangeUnit(ctx, b.URL, func(u *backstay.Unit) error { u.Closed = false; return failure }), failure)
	must(t, c.Units.DeleteUnit(ctx, a.URL))
	wantErr(t, c.Units.DeleteUnit(ctx, a.URL), catalog.ErrNotFound)
	_, err = c.Units.Unit(ctx, a.URL)
	wantErr(t, err, catalog.ErrNotFound)
	wantErr(t, c.Units.ChangeUnit(ctx, a.URL, func(*backstay.Unit) error { return nil }), catalog.ErrNotFound)
	got, err = c.Units.ListUnits(ctx)
	must(t, err)
	same(t, got, []backstay.Unit{b})
}
