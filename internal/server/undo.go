package server

import (
	"context"
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type undoInput struct {
	Job  string `path:"job"`
	Body api.UndoRequest
}

func (in *undoInput) id() backstay.JobID { return (&jobInput{Job: in.Job}).id() }

// undoJob takes a restore back. It plans first, and starts nothing that cannot be
// done.
func (s *server) undoJob(ctx context.Context, in *undoInput) (*started[api.UndoResponse], error) {
	c := callOf(ctx)
	c.target, c.audited = in.Job, c.audited || in.Body.DryRun // a dry run changes nothing
	plan, params, err := s.Planner.PlanUndo(ctx, in.id(), in.Body.UndoRequest)
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownJob, "job", in.Job)
	}
	out := &started[api.UndoResponse]{Status: http.StatusOK, Body: api.UndoResponse{Plan: plan}}
	if in.Body.DryRun {
		return out, nil
	}
	if err := mayUndo(ctx, plan); err != nil {
		return nil, err
	}
	job, err := s.submit(ctx, JobRequest{
		Kind: backstay.JobUndo, Target: label(plan.VM), Point: params.Plan.Point, VMs: []backstay.VMID{plan.VM.UUID},
		Host: plan.VM.Host, Tasks: plan.Tasks, Params: params,
	})
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}
