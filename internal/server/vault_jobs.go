package server

import (
	"context"
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type verifyVaultInput struct {
	Vault string `path:"vault"`
	Body  *api.VerifyVaultRequest
}

func (s *server) registerVaultJobs() {
	add(s, "verifyVault", func(ctx context.Context, in *verifyVaultInput) (*answer[backstay.Job], error) {
		name := backstay.VaultName(in.Vault)
		points := in.Body != nil && in.Body.Points
		return s.startVaultJob(ctx, name, JobRequest{Kind: backstay.JobVerify,
			Params: backstay.VerifyVaultParams{Vault: name, Points: points, Whole: !points}})
	})
	add(s, "repairVault", func(ctx context.Context, in *vaultInput) (*answer[backstay.Job], error) {
		name := backstay.VaultName(in.Vault)
		return s.startVaultJob(ctx, name, JobRequest{Kind: backstay.JobRepair, Params: backstay.RepairParams{Vault: name}})
	})
	add(s, "rebuildCatalogue", func(ctx context.Context, in *vaultInput) (*answer[backstay.Job], error) {
		name := backstay.VaultName(in.Vault)
		return s.startVaultJob(ctx, name, JobRequest{Kind: backstay.JobRebuild, Params: backstay.RebuildParams{Vault: name}})
	})
	add(s, "importVault", s.importVault)
	add(s, "reclaimVault", s.reclaimVault)
}

type reclaimInput struct {
	Vault string `path:"vault"`
	Body  *api.ReclaimRequest
}

// reclaimVault plans a reclaim, or queues one.
func (s *server) reclaimVault(ctx context.Context, in *reclaimInput) (*started[api.ReclaimResponse], error) {
	name, r := backstay.VaultName(in.Vault), api.ReclaimRequest{}
	if in.Body != nil {
		r = *in.Body
	}
	params := backstay.ReclaimParams{Vault: name, Trash: r.Trash, NoRepack: r.NoRepack}
	if !r.DryRun {
		job, err := s.startVaultJob(ctx, name, JobRequest{Kind: backstay.JobReclaim, Params: params})
		if err != nil {
			return nil, err
		}
		return &started[api.ReclaimResponse]{Status: http.StatusAccepted, Body: api.ReclaimResponse{Job: &job.Body}}, nil
	}
	callOf(ctx).target, callOf(ctx).audited = string(name), true // a dry run changes nothing
	if _, err := s.Catalog.Vaults.Vault(ctx, name); err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
	}
	plan, err := s.Planner.PlanReclaim(ctx, params)
	if err != nil {
		return nil, err
	}
	return &started[api.ReclaimResponse]{Status: http.StatusOK, Body: api.ReclaimResponse{Plan: &plan}}, nil
}

// startVaultJob queues a job that works on a whole vault. There is never more
// than one of a kind: the second would do what the first does.
func (s *server) startVaultJob(ctx context.Context, vault backstay.VaultName, r JobRequest) (*answer[backstay.Job], error) {
	callOf(ctx).target = string(vault)
	if _, err := s.Catalog.Vaults.Vault(ctx, vault); err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", vault)
	}
	pending, err := s.Jobs.List(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return nil, err
	}
	for _, j := range pending {
		if j.Kind == r.Kind && j.Target == string(vault) {
			return nil, backstay.Errorf(backstay.CodeConflict, "a %s of the vault %s is under way", j.Kind, vault).
				Becausef("the job %s is %s", j.ID, j.State).Do("follow it with `backstay job watch %s`, or cancel it", j.ID)
		}
	}
	r.Target = string(vault)
	job, err := s.submit(ctx, r)
	return &answer[backstay.Job]{job}, err
}

type importVaultInput struct{ Body api.ImportVaultRequest }

// importVault takes a vault in and fills the catalogue from it.
func (s *server) importVault(ctx context.Context, in *importVaultInput) (*answer[api.ImportVaultResponse], error) {
	callOf(ctx).target = string(in.Body.Name)
	if err := oneKey(in.Body.Key, in.Body.Passphrase); err != nil {
		return nil, err
	}
	v, err := s.Vaults.ImportVault(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	job, err := s.startVaultJob(ctx, v.Name, JobRequest{Kind: backstay.JobRebuild, Params: backstay.RebuildParams{Vault: v.Name}})
	if err != nil {
		return nil, err
	}
	return &answer[api.ImportVaultResponse]{api.ImportVaultResponse{Vault: v, Job: job.Body}}, nil
}

// showHealth adds to a vault what verifying found out of it.
func (s *server) showHealth(ctx context.Context, v *backstay.Vault) error {
	h, err := s.Catalog.Health.VaultHealth(ctx, v.Name)
	if err != nil {
		return err
	}
	v.Health = &h
	for i := range v.Units {
		if i < len(h.Copies) {
			v.Units[i].Copy = &h.Copies[i]
		}
	}
	return nil
}
