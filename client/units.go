package client

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// Units lists the storage units of the region, as last looked at.
func (c *Client) Units(ctx context.Context) ([]backstay.Unit, error) {
	return get[[]backstay.Unit](ctx, c, api.PathUnits)
}

// Unit returns one storage unit, looked at now.
func (c *Client) Unit(ctx context.Context, url string) (backstay.Unit, error) {
	return get[backstay.Unit](ctx, c, api.Path(api.PathUnit, url))
}

// AddUnit makes a place known as a storage unit.
func (c *Client) AddUnit(ctx context.Context, u api.NewUnit) (backstay.Unit, error) {
	return post[backstay.Unit](ctx, c, api.PathUnits, u)
}
