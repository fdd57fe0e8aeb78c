package daemon

import (
	"context"
	"encoding/json"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// liveJob returns the parameters of a live restore and the mover of its host.
func (e *engines) liveJob(ctx context.Context, id backstay.JobID) (params backstay.RestoreParams, m mover.Mover, err error) {
	record, err := e.region.catalog.Jobs.Job(ctx, id)
	if err != nil {
		return params, nil, fmt.Errorf("read job %s: %w", id, err)
	}
	if err := json.Unmarshal(record.Params, &params); err != nil {
		return params, nil, fmt.Errorf("read the parameters of job %s: %w", id, err)
	}
	m, err = e.region.hosts.mover(params.Plan.Host)
	return params, m, err
}

// Hurry implements server.Lives.
func (e *engines) Hurry(ctx context.Context, id backstay.JobID) error {
	_, m, err := e.liveJob(ctx, id)
	if err != nil {
		return err
	}
	return m.Hurry(ctx, id)
}

// Abandon implements server.Lives.
func (e *engines) Abandon(ctx context.Context, id backstay.JobID) error {
	params, m, err := e.liveJob(ctx, id)
	if err != nil {
		return err
	}
	return m.Abandon(ctx, mover.StageRequest{Job: id, Plan: params.Plan})
}
