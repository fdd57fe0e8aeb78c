package catalogtest

import (
	"context"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

func groups(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	gives(t, []backstay.Group{})(c.Groups.ListGroups(ctx))
	shop := backstay.Group{Name: "shop", VMs: []backstay.VMRef{{UUID: "a", Name: "web", Host: "h1"}, {UUID: "b", Name: "db", Host: "h2"}}, Since: at}
	must(t, c.Groups.CreateGroup(ctx, shop))
	gives(t, shop)(c.Groups.Group(ctx, "shop"))
	gives(t, shop)(c.Groups.GroupOf(ctx, "b"))
	absent[backstay.Group](t)(c.Groups.GroupOf(ctx, "c"))
	absent[backstay.Group](t)(c.Groups.Group(ctx, "mail"))
	wantErr(t, c.Groups.CreateGroup(ctx, backstay.Group{Name: "shop"}), catalog.ErrExists)

	// A VM is in one group at most, and a refused group leaves nothing.
	mail := backstay.Group{Name: "mail", VMs: []backstay.VMRef{{UUID: "c"}, {UUID: "b"}}}
	wantErr(t, c.Groups.CreateGroup(ctx, mail), catalog.ErrExists)
	absent[backstay.Group](t)(c.Groups.Group(ctx, "mail"))
	absent[backstay.Group](t)(c.Groups.GroupOf(ctx, "c"))

	must(t, c.Groups.DeleteGroup(ctx, "shop"))
	wantErr(t, c.Groups.DeleteGroup(ctx, "shop"), catalog.ErrNotFound)
	must(t, c.Groups.CreateGroup(ctx, mail))
	gives(t, []backstay.Group{mail})(c.Groups.ListGroups(ctx))
}
