package catalogtest

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

func replicas(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	of := func(point backstay.PointID, vault backstay.VaultName, region backstay.RegionName, state backstay.ReplicaState) catalog.ReplicaRecord {
		return catalog.ReplicaRecord{Point: point, Vault: vault,
			Replica: backstay.Replica{Region: region, State: state, At: at, LagSeconds: 7}}
	}
	must(t, c.Replicas.PutReplicas(ctx))
	must(t, c.Replicas.PutReplicas(ctx, of("01B", "main", "east", backstay.ReplicaCopying),
		of("01A", "main", "east", backstay.ReplicaAvailable), of("01C", "second", "east", backstay.ReplicaPending)))
	must(t, c.Replicas.PutReplicas(ctx, of("01B", "main", "north", backstay.ReplicaPending)))
	changed := of("01B", "main", "east", backstay.ReplicaAvailable)
	changed.At = at.Add(time.Minute)
	must(t, c.Replicas.PutReplicas(ctx, changed))

	got, err := c.Replicas.ListReplicas(ctx, "main")
	must(t, err)
	same(t, got, []catalog.ReplicaRecord{of("01A", "main", "east", backstay.ReplicaAvailable), changed, of("01B", "main", "north", backstay.ReplicaPending)})
	got, err = c.Replicas.ListReplicas(ctx, "")
	must(t, err)
	same(t, len(got), 4)
	got, err = c.Replicas.ReplicasOf(ctx, "01B")
	must(t, err)
	same(t, got, []catalog.ReplicaRecord{changed, of("01B", "main", "north", backstay.ReplicaPending)})

	must(t, c.Replicas.DeleteReplicas(ctx, "east", "01B", "01Z"))
	got, err = c.Replicas.ReplicasOf(ctx, "01B")
	must(t, err)
	same(t, got, []catalog.ReplicaRecord{of("01B", "main", "north", backstay.ReplicaPending)})
}
