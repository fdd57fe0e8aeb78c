package backstay

import (
	"fmt"
	"strings"
	"testing"
)

func TestUnitsFitTheirRedundancy(t *testing.T) {
	unit := func(zone string) StorageUnit { return StorageUnit{URL: "file:///" + zone, Zone: zone} }
	for name, c := range map[string]struct {
		r    Redundancy
		in   []StorageUnit
		fits bool
	}{
		"three without a zone":         {LRS, []StorageUnit{unit(""), unit(""), unit("")}, true},
		"three in one zone":            {LRS, []StorageUnit{unit("1"), unit("1"), unit("")}, true},
		"LRS in two zones":             {LRS, []StorageUnit{unit("1"), unit("2"), unit("")}, false},
		"two":                          {LRS, []StorageUnit{unit(""), unit("")}, false},
		"ZRS in three zones":           {ZRS, []StorageUnit{unit("1"), unit("2"), unit("3")}, true},
		"ZRS in two zones":             {ZRS, []StorageUnit{unit("1"), unit("2"), unit("2")}, false},
		"ZRS with one unnamed":         {ZRS, []StorageUnit{unit("1"), unit("2"), unit("")}, false},
		"one":                          {LRS, []StorageUnit{unit("")}, false},
		"one, declared redundant":      {LRS, []StorageUnit{{URL: "s3://b", Redundant: true}}, true},
		"one for ZRS, declared":        {ZRS, []StorageUnit{{URL: "s3://b", Redundant: true}}, true},
		"a declared one and an other":  {LRS, []StorageUnit{{URL: "s3://b", Redundant: true}, unit("")}, false},
		"GRS is LRS here":              {GRS, []StorageUnit{unit("1"), unit("1"), unit("1")}, true},
		"GRS does not mean zones here": {GRS, []StorageUnit{unit("1"), unit("2"), unit("3")}, false},
	} {
		if err := FitUnits(c.r, c.in); (err == nil) != c.fits || err != nil && !IsCode(err, CodeUsage) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestFreeUnitsAreChosenBySpaceAndApart(t *testing.T) {
	known := func(specs ...string) []Unit { // name/zone/device/free[/x: not free]
		var all []Unit
		for _, s := range specs {
			f := strings.Split(s, "/")
			u := Unit{URL: f[0], Zone: f[1], Device: f[2], State: NoCopy}
			_, _ = fmt.Sscan(f[3], &u.Available)
			switch {
			case len(f) == 4:
			case f[4] == "closed":
				u.Closed = true
			case f[4] == "used":
				u.Vaults = []VaultName{"v"}
			case f[4] == "away":
				u.State = "unreachable"
			case f[4] == "redundant":
				u.Redundant = true
			}
			all = append(all, u)
		}
		return all
	}
	for name, c := range map[string]struct {
		r     Redundancy
		keep  []StorageUnit
		known []Unit
		want  string
	}{
		"the roomiest":               {LRS, nil, known("a//1/5", "b//2/7", "c//3/6", "d//4/1"), "b c a"},
		"devices of their own first": {LRS, nil, known("a//1/9", "b//1/8", "c//2/1", "d//3/1"), "a c d"},
		"one device if need be":      {LRS, nil, known("a//1/9", "b//1/8", "c//1/7"), "a b c"},
		"none that is not free":      {LRS, nil, known("a//1/9", "b//2/8/closed", "c//3/7/used", "d//4/6/away", "e//5/5/redundant", "f//6/4"), ""},
		"one zone":                   {LRS, nil, known("a/1/1/9", "b/2/2/8", "c/2/3/7", "d/2/4/6"), "b c d"},
		"three zones":                {ZRS, nil, known("a/1/1/9", "b/1/2/8", "c/2/3/7", "d/3/4/6", "e//5/9"), "a c d"},
		"two zones do not do":        {ZRS, nil, known("a/1/1/9", "b/1/2/8", "c/2/3/7"), ""},
		"what is kept comes first":   {ZRS, []StorageUnit{{URL: "x", Zone: "2"}}, known("a/1/1/9", "c/2/3/7", "d/3/4/6"), "x a d"},
		"its zone is the zone":       {LRS, []StorageUnit{{URL: "x", Zone: "2"}}, known("a/1/1/9", "b/1/2/8", "c/2/3/7", "d/2/4/6"), "x c d"},
		"a declared one is enough":   {LRS, []StorageUnit{{URL: "x", Redundant: true}}, nil, "x"},
	} {
		chosen, err := ChooseUnits(c.r, c.keep, c.known)
		var urls []string
		for _, u := range chosen {
			urls = append(urls, u.URL)
		}
		if got := strings.Join(urls, " "); got != c.want || (err == nil) != (c.want != "") {
			t.Errorf("%s: %q, %v, want %q", name, got, err, c.want)
		}
	}
}
