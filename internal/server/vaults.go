package server

import (
	"context"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type vaultInput struct {
	Vault string `path:"vault"`
}

func (s *server) registerVaults() {
	add(s, "listVaults", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Vault], error) {
		vaults, err := s.Catalog.Vaults.ListVaults(ctx)
		for i := range vaults {
			if err == nil {
				err = s.showHealth(ctx, &vaults[i])
			}
			vaults[i].Health = nil // the counts of each copy are enough in a list
		}
		return &answer[[]backstay.Vault]{vaults}, err
	})
	add(s, "createVault", s.createVault)
	add(s, "getVault", func(ctx context.Context, in *vaultInput) (*answer[backstay.Vault], error) {
		name := backstay.VaultName(in.Vault)
		if _, err := s.Catalog.Vaults.Vault(ctx, name); err != nil {
			return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
		}
		v, err := s.Vaults.CheckVault(ctx, name)
		if err == nil {
			err = s.showHealth(ctx, &v)
		}
		return &answer[backstay.Vault]{v}, err
	})
	add(s, "setVaultKeep", s.setVaultKeep)
	add(s, "getVaultUsage", func(ctx context.Context, in *vaultInput) (*answer[backstay.VaultUsage], error) {
		name := backstay.VaultName(in.Vault)
		if _, err := s.Catalog.Vaults.Vault(ctx, name); err != nil {
			return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
		}
		u, err := s.Vaults.VaultUsage(ctx, name)
		return &answer[backstay.VaultUsage]{u}, err
	})
}

type createVaultInput struct{ Body api.CreateVaultRequest }

func (s *server) createVault(ctx context.Context, in *createVaultInput) (*answer[api.CreateVaultResponse], error) {
	r := in.Body
	callOf(ctx).target = string(r.Name)
	if r.Redundancy == "" {
		r.Redundancy = backstay.LRS
	}
	if err := checkUnits(r); err != nil {
		return nil, err
	}
	if err := s.checkPair(ctx, r); err != nil {
		return nil, err
	}
	if _, err := s.Catalog.Vaults.Vault(ctx, r.Name); err == nil {
		return nil, backstay.Errorf(backstay.CodeExists, "there is a vault %q already", r.Name).Becausef("names of vaults are unique in a region")
	}
	v, key, err := s.Vaults.CreateVault(ctx, r)
	if err != nil {
		return nil, err
	}
	return &answer[api.CreateVaultResponse]{api.CreateVaultResponse{Vault: v, RecoveryKey: key}}, nil
}

// checkPair demands that there is a region to which a GRS vault can be replicated.
func (s *server) checkPair(ctx context.Context, r api.CreateVaultRequest) error {
	if r.Redundancy != backstay.GRS {
		if r.Pair != "" {
			return backstay.Errorf(backstay.CodeUsage, "a vault of redundancy %s is not replicated", r.Redundancy).Do("leave the region out, or ask for GRS")
		}
		return nil
	}
	regions, err := s.Catalog.Regions.ListRegions(ctx)
	if err != nil {
		return err
	}
	for _, known := range regions {
		if r.Pair == "" || r.Pair == known.Name {
			return nil
		}
	}
	e := backstay.Errorf(backstay.CodeUsage, "a GRS vault needs a paired region").Becausef("this region has none").
		Do("pair them first: `backstay region pair`; or use LRS or ZRS, and change it later")
	if r.Pair != "" {
		e = e.Becausef("this region is not paired with %q", r.Pair)
	}
	return e
}

func checkUnits(r api.CreateVaultRequest) error {
	seen := map[string]bool{}
	for _, u := range r.Units {
		if err := checkUnitURL(u.URL); err != nil {
			return err
		}
		at := strings.TrimRight(u.URL, "/")
		if seen[at] {
			return backstay.Errorf(backstay.CodeUsage, "a storage unit is named twice").
				Becausef("two copies in one place are one copy").Do("give a place of its own for each copy, on different devices if there are any")
		}
		seen[at] = true
	}
	return nil
}

// checkUnitURL refuses what cannot be a unit's URL. Whoever opens units takes it
// apart. It is not repeated in the error, because it may hold a password that has no
// business there.
func checkUnitURL(url string) error {
	if scheme, at, ok := strings.Cut(url, "://"); !strings.HasPrefix(url, "/") && (!ok || scheme == "" || at == "") {
		return backstay.Errorf(backstay.CodeUsage, "this is not the URL of a storage unit").
			Becausef("it is neither an absolute path nor like kind://place").Do("say file:///path/of/the/folder, s3://bucket/prefix or azure://account/container")
	}
	return nil
}

type vaultKeepInput struct {
	Vault string `path:"vault"`
	Body  api.SetVaultKeepRequest
}

// setVaultKeep sets the retention of a replica. A vault of this region has policies.
func (s *server) setVaultKeep(ctx context.Context, in *vaultKeepInput) (*answer[backstay.Vault], error) {
	name := backstay.VaultName(in.Vault)
	callOf(ctx).target = in.Vault
	v, err := s.Catalog.Vaults.Vault(ctx, name)
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownVault, "vault", name)
	}
	if v.Origin == nil {
		return nil, backstay.Errorf(backstay.CodeConflict, "the vault %s is this region's own", name).
			Becausef("how long its points are kept is said by the policies of the VMs").
			Do("change the policy: `backstay policy edit`")
	}
	keep := v.Kept()
	if in.Body.Days != nil {
		keep.Days = *in.Body.Days
	}
	if in.Body.Points != nil {
		keep.Points = *in.Body.Points
	}
	v, err = s.Vaults.KeepReplica(ctx, name, keep)
	return &answer[backstay.Vault]{v}, err
}
