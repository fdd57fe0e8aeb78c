package server

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Replications is what the server needs of the replication to other regions.
type Replications interface {
	// Replications says how far each GRS vault is in its paired region, by vault.
	Replications(ctx context.Context) ([]backstay.Replication, error)
	// PauseReplication stops pushing to a region, or goes on with it. CodeUnknownRegion.
	PauseReplication(ctx context.Context, name backstay.RegionName, paused bool) (backstay.Region, error)
}

type replicationInput struct {
	Region string `path:"region"`
}

func (s *server) registerReplications() {
	add(s, "listReplications", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Replication], error) {
		all, err := s.Replications.Replications(ctx)
		return &answer[[]backstay.Replication]{all}, err
	})
	for id, paused := range map[string]bool{"pauseReplication": true, "resumeReplication": false} {
		add(s, id, func(ctx context.Context, in *replicationInput) (*answer[backstay.Region], error) {
			callOf(ctx).target = in.Region
			region, err := s.Replications.PauseReplication(ctx, backstay.RegionName(in.Region), paused)
			return &answer[backstay.Region]{region}, err
		})
	}
}

// withReplicas says of points how far they are in other regions: as those said
// last, and pending where nothing was asked yet.
func (s *server) withReplicas(ctx context.Context, points ...*backstay.RecoveryPoint) error {
	if len(points) == 0 {
		return nil
	}
	vaults, err := s.Catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return err
	}
	to := map[backstay.VaultName]backstay.RegionName{}
	for _, v := range vaults {
		if v.Redundancy == backstay.GRS && v.Origin == nil && v.Pair != "" {
			to[v.Name] = v.Pair
		}
	}
	var records []catalog.ReplicaRecord
	if len(points) == 1 {
		records, err = s.Catalog.Replicas.ReplicasOf(ctx, points[0].ID)
	} else {
		records, err = s.Catalog.Replicas.ListReplicas(ctx, "")
	}
	if err != nil {
		return err
	}
	of := map[backstay.PointID][]backstay.Replica{}
	for _, r := range records {
		of[r.Point] = append(of[r.Point], r.Replica)
	}
	for _, p := range points {
		p.Replicas = replicasOf(*p, of[p.ID], to[p.Vault], s.Now())
	}
	return nil
}

// replicasOf is what is said of one point. A point that left the vault tier here is
// in the other region for as long as that keeps it.
func replicasOf(p backstay.RecoveryPoint, known []backstay.Replica, to backstay.RegionName, now time.Time) []backstay.Replica {
	out := []backstay.Replica{}
	said := false
	for _, r := range known {
		said = said || r.Region == to
		out = append(out, r.WithLag(p.Time, now))
	}
	if to != "" && !said && p.Has(backstay.VaultTier) {
		out = append(out, backstay.Replica{Region: to, State: backstay.ReplicaPending, At: now.UTC()}.WithLag(p.Time, now))
	}
	return out
}
