package client

import (
	"context"
	"net/http"

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

// SetRedundancy starts a job that brings a vault to a redundancy.
func (c *Client) SetRedundancy(ctx context.Context, vault backstay.VaultName, r api.SetRedundancyRequest) (api.SetRedundancyResponse, error) {
	var out api.SetRedundancyResponse
	err := c.do(ctx, http.MethodPut, api.Path(api.PathVaultRedundancy, string(vault)), r, &out)
	return out, err
}

// DrainUnit starts jobs that make the copies on a unit elsewhere.
func (c *Client) DrainUnit(ctx context.Context, url string, r api.DrainUnitRequest) (api.DrainUnitResponse, error) {
	return post[api.DrainUnitResponse](ctx, c, api.Path(api.PathUnitDrain, url), r)
}

// RemoveUnit makes the region forget a unit that no vault is on.
func (c *Client) RemoveUnit(ctx context.Context, url string) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathUnit, url), nil, nil)
}
