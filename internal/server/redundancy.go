package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type setRedundancyInput struct {
	Vault string `path:"vault"`
	Body  api.SetRedundancyRequest
}

type drainUnitInput struct {
	Unit string `path:"unit" doc:"the unit's URL"`
	Body *api.DrainUnitRequest
}

func (s *server) registerRedundancy() {
	add(s, "setRedundancy", s.setRedundancy)
	add(s, "drainUnit", s.drainUnit)
	add(s, "removeUnit", func(ctx context.Context, in *unitInput) (*struct{}, error) {
		u, err := s.Units.CheckUnit(ctx, in.Unit)
		if err != nil {
			return nil, err
		}
		callOf(ctx).target = u.URL // as it is kept
		return nil, s.Units.RemoveUnit(ctx, u.URL)
	})
}

// setRedundancy writes down what a vault shall be, and starts the job that brings it
// there.
func (s *server) setRedundancy(ctx context.Context, in *setRedundancyInput) (*answer[api.SetRedundancyResponse], error) {
	name := backstay.VaultName(in.Vault)
	callOf(ctx).target = in.Vault
	asked := api.CreateVaultRequest{Redundancy: in.Body.Redundancy, Units: in.Body.Units}
	if err := checkUnits(asked); err != nil {
		return nil, err
	}
	before, err := s.Catalog.Vaults.Vault(ctx, name)
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
	}
	if before.Origin != nil && in.Body.Redundancy != backstay.LRS {
		return nil, backstay.Errorf(backstay.CodeUsage, "the replica %s cannot be %s", name, in.Body.Redundancy).
			Becausef("a region holds the vaults of another one as LRS").Do("say redundancy=LRS, and on which units")
	}
	if err := s.checkPair(ctx, asked); err != nil {
		return nil, err
	}
	if job, err := s.redundancyJob(ctx, name); err != nil {
		return nil, err
	} else if job != nil {
		return nil, beingBrought(name, *job)
	}
	v, err := s.Units.SetRedundancy(ctx, name, in.Body.Redundancy, in.Body.Units)
	if err != nil {
		return nil, err
	}
	job, err := s.startRedundancy(ctx, name)
	return &answer[api.SetRedundancyResponse]{api.SetRedundancyResponse{Vault: v, Job: job}}, err
}

func beingBrought(name backstay.VaultName, job backstay.Job) error {
	return backstay.Errorf(backstay.CodeConflict, "the storage units of the vault %s are being changed", name).
		Becausef("the job %s is %s", job.ID, job.State).Do("follow it with `backstay job watch %s`, or cancel it", job.ID)
}

// drainUnit has the copies that are on a unit made elsewhere.
func (s *server) drainUnit(ctx context.Context, in *drainUnitInput) (*answer[api.DrainUnitResponse], error) {
	u, err := s.Units.CheckUnit(ctx, in.Unit)
	if err != nil {
		return nil, err
	}
	callOf(ctx).target = u.URL // as it is kept
	for _, name := range u.Vaults {
		if job, err := s.redundancyJob(ctx, name); err != nil {
			return nil, err
		} else if job != nil {
			return nil, beingBrought(name, *job)
		}
	}
	var to []api.NewUnit
	if in.Body != nil {
		to = in.Body.To
	}
	for _, n := range to {
		if err := checkUnitURL(n.URL); err != nil {
			return nil, err
		}
	}
	vaults := u.Vaults
	if u, err = s.Units.DrainUnit(ctx, u.URL, to); err != nil {
		return nil, err
	}
	out := api.DrainUnitResponse{Unit: u, Jobs: []backstay.Job{}}
	for _, name := range vaults {
		job, err := s.startRedundancy(ctx, name)
		if err != nil {
			return nil, err
		}
		out.Jobs = append(out.Jobs, job)
	}
	return &answer[api.DrainUnitResponse]{out}, nil
}

// redundancyJob returns the redundancy job of a vault that has not ended, if any.
func (s *server) redundancyJob(ctx context.Context, name backstay.VaultName) (*backstay.Job, error) {
	pending, err := s.Jobs.List(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return nil, err
	}
	for _, j := range pending {
		if j.Kind == backstay.JobRedundancy && j.Target == string(name) {
			return &j, nil
		}
	}
	return nil, nil
}

// startRedundancy starts the job, unless the server did so by itself meanwhile.
func (s *server) startRedundancy(ctx context.Context, name backstay.VaultName) (backstay.Job, error) {
	if job, err := s.redundancyJob(ctx, name); err != nil || job != nil {
		if job != nil {
			callOf(ctx).job = job.ID
			return *job, nil
		}
		return backstay.Job{}, err
	}
	return s.submit(ctx, JobRequest{Kind: backstay.JobRedundancy, Target: string(name), Params: backstay.RedundancyParams{Vault: name}})
}
