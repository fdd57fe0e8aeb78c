package server

import (
	"context"
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

func (s *server) registerDeploys() { add(s, "startDeploy", s.startDeploy) }

type deployInput struct{ Body api.DeployRequest }

// startDeploy plans first, and starts nothing that a value or a check refuses.
func (s *server) startDeploy(ctx context.Context, in *deployInput) (*started[api.DeployResponse], error) {
	request := in.Body.DeployRequest
	callOf(ctx).audited = callOf(ctx).audited || request.DryRun // a dry run changes nothing
	callOf(ctx).target = request.Folder
	plan, parameters, err := s.Planner.PlanDeploy(ctx, request)
	if err != nil {
		return nil, err
	}
	if err := mayDeploy(ctx, request, parameters); err != nil {
		return nil, err
	}
	out := &started[api.DeployResponse]{Status: http.StatusOK, Body: api.DeployResponse{Plan: plan, Parameters: parameters}}
	if request.DryRun {
		return out, nil
	}
	if err := plan.Refusal(); err != nil {
		return nil, err
	}
	job, err := s.submit(ctx, JobRequest{
		Kind: backstay.JobDeploy, Target: string(plan.Host) + "/" + plan.Name, Point: plan.Point, Host: plan.Host, Tasks: plan.Tasks,
		VMs: []backstay.VMID{plan.UUID}, Params: backstay.DeployParams{Request: request, Plan: plan},
	})
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}
