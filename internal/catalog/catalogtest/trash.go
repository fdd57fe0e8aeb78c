package catalogtest

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

func trash(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	started := at.Add(-time.Hour)
	first := catalog.TrashRecord{Vault: "main", List: "01B", Since: at,
		Leases: []backstay.Lease{{Job: "01J", Kind: backstay.JobRestore, Target: "h1/web01", Started: &started}}}
	other := catalog.TrashRecord{Vault: "second", List: "01B", Since: at.Add(time.Hour), Leases: []backstay.Lease{}}
	older := catalog.TrashRecord{Vault: "main", List: "01A", Since: at.Add(2 * time.Hour), Leases: []backstay.Lease{}}
	for _, r := range []catalog.TrashRecord{first, other, older} {
		must(t, c.Trash.PutTrash(ctx, r))
	}
	// What was seen first counts: a later look must not put a deletion off.
	again := first
	again.Since, again.Leases = at.Add(24*time.Hour), nil
	wantErr(t, c.Trash.PutTrash(ctx, again), catalog.ErrExists)
	got, err := c.Trash.ListTrash(ctx, "main")
	must(t, err)
	same(t, got, []catalog.TrashRecord{older, first})
	must(t, c.Trash.DeleteTrash(ctx, "main", "01B"))
	must(t, c.Trash.DeleteTrash(ctx, "main", "01B"))
	got, err = c.Trash.ListTrash(ctx, "main")
	must(t, err)
	same(t, got, []catalog.TrashRecord{older})
	got, err = c.Trash.ListTrash(ctx, "second")
	must(t, err)
	same(t, got, []catalog.TrashRecord{other})
}
