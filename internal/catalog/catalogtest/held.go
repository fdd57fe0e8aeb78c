package catalogtest

import (
	"testing"
	"time"

	"github.com/backstay/backstay/internal/catalog"
)

func held(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	second := catalog.HeldPoint{Vault: "main@west", Point: "01B", Since: at, Taken: at.Add(-time.Hour), Item: "ab", Root: "cd", Packs: 3}
	first := catalog.HeldPoint{Vault: "main@west", Point: "01A", Since: at, Taken: at.Add(-2 * time.Hour)}
	other := catalog.HeldPoint{Vault: "main@north", Point: "01A", Since: at}
	for _, h := range []catalog.HeldPoint{second, first, other} {
		must(t, c.Held.PutHeld(ctx, h))
	}
	gone := at.Add(time.Minute)
	first.Gone = &gone
	must(t, c.Held.PutHeld(ctx, first))
	got, err := c.Held.ListHeld(ctx, "main@west")
	must(t, err)
	same(t, got, []catalog.HeldPoint{first, second})
	one, err := c.Held.HeldPoint(ctx, "main@north", "01A")
	must(t, err)
	same(t, one, other)
	_, err = c.Held.HeldPoint(ctx, "main@north", "01B")
	wantErr(t, err, catalog.ErrNotFound)
}
