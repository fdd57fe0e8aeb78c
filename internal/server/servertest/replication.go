package servertest

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// replications has one vault that is replicated, and one region.
type replications struct{ paused bool }

func (*replications) Replications(context.Context) ([]backstay.Replication, error) {
	newest, last, eta := backstay.PointID("01K9ZQ0000000000000000000A"), Now.Add(-time.Minute), int64(120)
	return []backstay.Replication{{Vault: "default", Region: "east", State: "copying", Points: 12, Available: 10, Newest: &newest, LagSeconds: 90,
		BacklogObjects: 70, BacklogBytes: 1 << 30, Rate: 9 << 20, EtaSeconds: &eta, Job: "01K9ZQ0000000000000000000J", Last: &last}}, nil
}

func (r *replications) PauseReplication(_ context.Context, name backstay.RegionName, paused bool) (backstay.Region, error) {
	if name != "east" {
		return backstay.Region{}, backstay.Errorf(backstay.CodeUnknownRegion, "there is no region %q", name)
	}
	r.paused = paused
	return backstay.Region{Name: name, Address: "east.example:7071", Fingerprint: "ab", Paired: Now, State: "connected", LastSeen: &Now, Paused: paused}, nil
}
