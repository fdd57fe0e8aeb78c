package daemon

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/backstay/backstay/internal/catalog"
)

// AddUnit implements server.Units.
func (v *vaults) AddUnit(ctx context.Context, n api.NewUnit) (backstay.Unit, error) {
	var u backstay.Unit
	urls, err := unitURLs([]api.NewUnit{n})
	if err != nil {
		return u, err
	}
	u = backstay.Unit{URL: urls[0], Zone: n.Zone, Redundant: n.Redundant, Added: v.now().UTC(), Available: -1, Vaults: []backstay.VaultName{}}
	known, err := v.ListUnits(ctx)
	if err != nil {
		return u, err
	}
	if slices.ContainsFunc(known, func(k backstay.Unit) bool { return k.URL == u.URL }) {
		return u, backstay.Errorf(backstay.CodeExists, "the region has the storage unit %s already", u.URL).
			Becausef("each is known once").Do("see it with `backstay unit show %s`", u.URL)
	}
	if err := apart(u.URL, known); err != nil {
		return u, err
	}
	if err := unit.Init(ctx, u.URL); err != nil {
		return u, err
	}
	v.lookAtUnit(ctx, &u)
	if err := v.catalog.Units.CreateUnit(ctx, u); err != nil {
		return u, fmt.Errorf("record unit %s: %w", u.URL, err)
	}
	return u, nil
}

// apart refuses a unit that lies in another, or is one under another name.
func apart(url string, known []backstay.Unit) error {
	var parsed []unit.URL
	for _, k := range known {
		if p, err := unit.Parse(k.URL); err == nil && unit.Apart(p) == nil {
			parsed = append(parsed, p)
		}
	}
	p, err := unit.Parse(url)
	if err != nil {
		return err
	}
	for _, k := range parsed {
		if err := unit.Apart(k, p); err != nil {
			return err
		}
	}
	return nil
}

// lookAtUnit notes the state of a unit as it is now.
func (v *vaults) lookAtUnit(ctx context.Context, u *backstay.Unit) {
	state, place := v.lookAt(ctx, u.URL)
	now := v.now().UTC()
	u.State, u.Device, u.Available, u.Checked = state, place.Device, place.Available, &now
}

// CheckUnit implements server.Units. The URL may be in any of its forms.
func (v *vaults) CheckUnit(ctx context.Context, url string) (backstay.Unit, error) {
	known, err := v.ListUnits(ctx)
	if err != nil {
		return backstay.Unit{}, err
	}
	if clean, err := unit.Clean(url); err == nil {
		url = clean
	}
	i := slices.IndexFunc(known, func(k backstay.Unit) bool { return k.URL == url })
	if i < 0 {
		return backstay.Unit{}, backstay.Errorf(backstay.CodeUnknownUnit, "the region has no such storage unit").
			Becausef("nobody added it, and no vault is on it")
	}
	u := known[i]
	v.lookAtUnit(ctx, &u)
	return u, v.catalog.Units.ChangeUnit(ctx, u.URL, func(now *backstay.Unit) error {
		now.State, now.Device, now.Available, now.Checked = u.State, u.Device, u.Available, u.Checked
		return nil
	})
}

// ListUnits implements server.Units.
func (v *vaults) ListUnits(ctx context.Context) ([]backstay.Unit, error) {
	known, err := v.catalog.Units.ListUnits(ctx)
	if err != nil {
		return nil, err
	}
	all, err := v.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return nil, fmt.Errorf("list vaults: %w", err)
	}
	for i := range known {
		known[i].Vaults = []backstay.VaultName{}
		for _, entry := range all {
			if slices.ContainsFunc(entry.Units, func(u backstay.StorageUnit) bool { return u.URL == known[i].URL }) {
				known[i].Vaults = append(known[i].Vaults, entry.Name)
			}
		}
	}
	return known, nil
}

// register makes the units of a vault known to the region, those that are not yet.
func (v *vaults) register(ctx context.Context, entry backstay.Vault) error {
	for _, u := range entry.Units {
		err := v.catalog.Units.CreateUnit(ctx, backstay.Unit{URL: u.URL, Zone: u.Zone, Redundant: u.Redundant, Added: v.now().UTC(),
			State: u.State, Device: u.Device, Available: -1, Checked: entry.Checked})
		if err != nil && !errors.Is(err, catalog.ErrExists) {
			return fmt.Errorf("record unit %s: %w", u.URL, err)
		}
	}
	return nil
}

// registerAll makes the units of all vaults known: those of vaults that an older
// release made, and of one whose making was cut off after its own row.
func (v *vaults) registerAll(ctx context.Context) error {
	all, err := v.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return fmt.Errorf("list vaults: %w", err)
	}
	for _, entry := range all {
		if err := v.register(ctx, entry); err != nil {
			return err
		}
	}
	return nil
}

// unitsFor returns the units of a vault that is to be made: those that were named,
// completed by what the region knows of them, or else free ones of the region.
func (v *vaults) unitsFor(ctx context.Context, r backstay.Redundancy, wanted []api.NewUnit) ([]backstay.StorageUnit, error) {
	known, err := v.ListUnits(ctx)
	if err != nil {
		return nil, err
	}
	if len(wanted) == 0 {
		for i := range known {
			v.lookAtUnit(ctx, &known[i])
		}
		return backstay.ChooseUnits(r, nil, known)
	}
	units, err := complete(wanted, known)
	if err != nil {
		return nil, err
	}
	return units, backstay.FitUnits(r, units)
}

// complete adds to what a person says of units what the region knows of them.
func complete(wanted []api.NewUnit, known []backstay.Unit) ([]backstay.StorageUnit, error) {
	urls, err := unitURLs(wanted)
	if err != nil {
		return nil, err
	}
	var units []backstay.StorageUnit
	for i, w := range wanted {
		u := backstay.StorageUnit{URL: urls[i], Zone: w.Zone, Redundant: w.Redundant}
		for _, k := range known {
			if k.URL != u.URL {
				continue
			}
			if k.Closed {
				return nil, backstay.Errorf(backstay.CodeUnitInUse, "the storage unit %s takes no vault", u.URL).
					Becausef("it is drained").Do("name another one")
			}
			if w.Zone != "" && k.Zone != "" && w.Zone != k.Zone {
				return nil, backstay.Errorf(backstay.CodeUsage, "the storage unit %s is in zone %s", u.URL, k.Zone).
					Becausef("zone %s was named", w.Zone).Do("leave the zone out")
			}
			if u.Zone == "" {
				u.Zone = k.Zone
			}
			u.Redundant = u.Redundant || k.Redundant
		}
		units = append(units, u)
	}
	return units, nil
}
