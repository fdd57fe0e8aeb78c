package catalogtest

import (
	"errors"
	"sync"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

type regionsByName = map[backstay.RegionName]catalog.RegionRecord

func regions(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	_, err := c.Regions.Region(ctx, "east")
	wantErr(t, err, catalog.ErrNotFound)
	east := catalog.RegionRecord{
		Region: backstay.Region{Name: "east", Address: "10.0.0.1:7071", Fingerprint: "ff00", Recipient: "age1x", Paired: at, Paused: true},
		Tokens: []catalog.UsedToken{{ID: "T", Expires: at.Add(time.Hour)}},
	}
	north := catalog.RegionRecord{Region: backstay.Region{Name: "north", Fingerprint: "00ff", Paired: at}, Tokens: []catalog.UsedToken{}}
	must(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
		if len(known) > 0 {
			t.Errorf("at first there are %v", known)
		}
		known["north"], known["east"] = north, east
		return nil
	}))
	got, err := c.Regions.Region(ctx, "east")
	must(t, err)
	same(t, got, east)
	all, err := c.Regions.ListRegions(ctx)
	must(t, err)
	same(t, all, []catalog.RegionRecord{east, north})
	// An error writes nothing.
	no := errors.New("no")
	wantErr(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
		delete(known, "east")
		return no
	}), no)
	east.Paused = false
	must(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
		same(t, known, regionsByName{"east": {Region: pausedEast(east), Tokens: east.Tokens}, "north": north})
		delete(known, "north")
		known["east"] = east
		return nil
	}))
	all, err = c.Regions.ListRegions(ctx)
	must(t, err)
	same(t, all, []catalog.RegionRecord{east})
	// One that is removed is seen by changes alone.
	must(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
		known["east"] = catalog.RegionRecord{Tokens: east.Tokens, Removed: true}
		return nil
	}))
	_, err = c.Regions.Region(ctx, "east")
	wantErr(t, err, catalog.ErrNotFound)
	all, err = c.Regions.ListRegions(ctx)
	must(t, err)
	same(t, all, []catalog.RegionRecord{})
	must(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
		if r := known["east"]; !r.Removed || len(r.Tokens) != 1 {
			t.Errorf("changes see %+v", known)
		}
		return nil
	}))
}

func pausedEast(r catalog.RegionRecord) backstay.Region {
	r.Paused = true
	return r.Region
}

// regionsTogether: of many changes at once each sees what the ones before it wrote.
func regionsTogether(t *testing.T, c *catalog.Catalog) {
	ctx := t.Context()
	var all sync.WaitGroup
	for i := range 8 {
		all.Go(func() {
			check(t, c.Regions.ChangeRegions(ctx, func(known regionsByName) error {
				r := known["east"]
				r.Tokens = append(r.Tokens, catalog.UsedToken{ID: string(rune('a' + i)), Expires: at})
				known["east"] = r
				return nil
			}))
		})
	}
	all.Wait()
	r, err := c.Regions.Region(ctx, "east")
	must(t, err)
	if len(r.Tokens) != 8 {
		t.Errorf("%d of 8 changes are there", len(r.Tokens))
	}
}
