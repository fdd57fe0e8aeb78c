package servertest

import (
	"context"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// PairingToken is the one that every world makes; OtherPairingToken the one with which
// it can be paired, with the region east.
const (
	PairingToken      = "bspair_made-here"
	OtherPairingToken = "bspair_made-in-east"
)

// regions are the paired regions of a world: at first none.
type regions struct {
	mu  sync.Mutex
	all []backstay.Region // guarded by mu
}

func (r *regions) Regions(context.Context) ([]backstay.Region, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return slices.Clone(r.all), nil
}

func (r *regions) Region(_ context.Context, name backstay.RegionName) (backstay.Region, error) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, region := range r.all {
		if region.Name == name {
			return region, nil
		}
	}
	return backstay.Region{}, backstay.Errorf(backstay.CodeUnknownRegion, "there is no region %q", name).Becausef("it is not paired with this one")
}

func (r *regions) NewPairingToken(context.Context, api.PairingTokenRequest) (api.PairingToken, error) {
	return api.PairingToken{Token: PairingToken, Expires: Now.Add(time.Hour), Region: "home", Address: "home.example:7071", Fingerprint: "00ff"}, nil
}

func (r *regions) Pair(_ context.Context, q api.PairRequest) (backstay.Region, error) {
	if q.Token != OtherPairingToken {
		return backstay.Region{}, backstay.Errorf(backstay.CodePairing, "the token is not one that the other server made")
	}
	seen := Now
	region := backstay.Region{Name: "east", Address: "east.example:7071", Server: "https://east.example", Fingerprint: "ff00", Paired: Now, State: "connected", LastSeen: &seen}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.all = []backstay.Region{region}
	return region, nil
}

func (r *regions) RemoveRegion(ctx context.Context, name backstay.RegionName) error {
	_, err := r.Region(ctx, name)
	if err == nil {
		r.mu.Lock()
		defer r.mu.Unlock()
		r.all = nil
	}
	return err
}
