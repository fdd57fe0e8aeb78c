package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// Regions is what the server needs of the pairing with other regions. Errors are
// coded: CodeUnknownRegion, CodePairing, CodeExists, CodeRegionAway, CodeConfig.
type Regions interface {
	// Regions lists the paired regions, by name; Region returns one.
	Regions(ctx context.Context) ([]backstay.Region, error)
	Region(ctx context.Context, name backstay.RegionName) (backstay.Region, error)
	// NewPairingToken makes a token by which another region's server can be paired.
	NewPairingToken(ctx context.Context, r api.PairingTokenRequest) (api.PairingToken, error)
	// Pair pairs with the server that made the token. Doing so again with the same one
	// is no error.
	Pair(ctx context.Context, r api.PairRequest) (backstay.Region, error)
	// RemoveRegion forgets a region: its server is not answered any more. CodeConflict
	// while a vault is replicated to it.
	RemoveRegion(ctx context.Context, name backstay.RegionName) error
}

func (s *server) registerRegions() {
	add(s, "listRegions", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Region], error) {
		regions, err := s.Regions.Regions(ctx)
		return &answer[[]backstay.Region]{regions}, err
	})
	add(s, "getRegion", func(ctx context.Context, in *struct {
		Region string `path:"region"`
	}) (*answer[backstay.Region], error) {
		region, err := s.Regions.Region(ctx, backstay.RegionName(in.Region))
		return &answer[backstay.Region]{region}, err
	})
	add(s, "removeRegion", func(ctx context.Context, in *struct {
		Region string `path:"region"`
	}) (*struct{}, error) {
		callOf(ctx).target = in.Region
		return nil, s.Regions.RemoveRegion(ctx, backstay.RegionName(in.Region))
	})
	add(s, "createPairingToken", func(ctx context.Context, in *struct{ Body api.PairingTokenRequest }) (*answer[api.PairingToken], error) {
		callOf(ctx).target = "replace " + string(in.Body.Replace)
		if in.Body.Replace == "" {
			callOf(ctx).target = "any new region"
		}
		token, err := s.Regions.NewPairingToken(ctx, in.Body)
		return &answer[api.PairingToken]{token}, err
	})
	add(s, "pairRegion", func(ctx context.Context, in *struct{ Body api.PairRequest }) (*answer[backstay.Region], error) {
		region, err := s.Regions.Pair(ctx, in.Body)
		callOf(ctx).target = string(region.Name)
		return &answer[backstay.Region]{region}, err
	})
}
