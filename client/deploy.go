package client

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// StartDeploy starts to make a VM of restored disks, or plans it with DryRun. A
// value that is not valid is CodeUsage, and names its parameter.
func (c *Client) StartDeploy(ctx context.Context, r backstay.DeployRequest) (api.DeployResponse, error) {
	return post[api.DeployResponse](ctx, c, api.PathDeploys, api.DeployRequest{DeployRequest: r})
}
