package client

import (
	"context"
	"fmt"
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// StartDrill starts a drill of a plan, a point or a VM, or plans it.
func (c *Client) StartDrill(ctx context.Context, r api.StartDrillRequest) (api.StartDrillResponse, error) {
	return post[api.StartDrillResponse](ctx, c, api.PathDrills, r)
}

// Drills lists at most limit records of drills, newest first; 0 means 100.
func (c *Client) Drills(ctx context.Context, limit int) (api.DrillList, error) {
	return get[api.DrillList](ctx, c, fmt.Sprintf("%s?limit=%d", api.PathDrills, limit))
}

// Drill returns the whole record of a drill, or of the newest one of a plan.
func (c *Client) Drill(ctx context.Context, id string) (backstay.DrillRecord, error) {
	return get[backstay.DrillRecord](ctx, c, api.Path(api.PathDrill, id))
}

// DrillPlans lists all plans of drills.
func (c *Client) DrillPlans(ctx context.Context) ([]api.DrillPlanDetail, error) {
	return get[[]api.DrillPlanDetail](ctx, c, api.PathDrillPlans)
}

// DrillPlan returns one plan of drills.
func (c *Client) DrillPlan(ctx context.Context, name string) (api.DrillPlanDetail, error) {
	return get[api.DrillPlanDetail](ctx, c, api.Path(api.PathDrillPlan, name))
}

// CreateDrillPlan keeps a plan of drills.
func (c *Client) CreateDrillPlan(ctx context.Context, r api.CreateDrillPlanRequest) (api.DrillPlanDetail, error) {
	return post[api.DrillPlanDetail](ctx, c, api.PathDrillPlans, r)
}

// ScheduleDrill lets a plan of drills run by itself; 0 ends that.
func (c *Client) ScheduleDrill(ctx context.Context, name string, every backstay.Duration) (api.DrillPlanDetail, error) {
	var out api.DrillPlanDetail
	err := c.do(ctx, http.MethodPut, api.Path(api.PathDrillSchedule, name), api.ScheduleDrillRequest{Every: every}, &out)
	return out, err
}

// DeleteDrillPlan forgets a plan of drills; its records stay.
func (c *Client) DeleteDrillPlan(ctx context.Context, name string) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathDrillPlan, name), nil, nil)
}
