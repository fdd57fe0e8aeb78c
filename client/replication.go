package client

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// Replications says how far each GRS vault is in its paired region.
func (c *Client) Replications(ctx context.Context) ([]backstay.Replication, error) {
	return get[[]backstay.Replication](ctx, c, api.PathReplications)
}

// PauseReplication stops pushing to a region until ResumeReplication.
func (c *Client) PauseReplication(ctx context.Context, region backstay.RegionName) (backstay.Region, error) {
	return post[backstay.Region](ctx, c, api.Path(api.PathReplicationPause, string(region)), nil)
}

// ResumeReplication goes on with pushing to a region.
func (c *Client) ResumeReplication(ctx context.Context, region backstay.RegionName) (backstay.Region, error) {
	return post[backstay.Region](ctx, c, api.Path(api.PathReplicationResume, string(region)), nil)
}
