package point_test

import (
	"encoding/binary"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// scattered is the page of 256 MiB with a chunk for each unit, in so many packs.
func scattered(t *testing.T, packs int) *point.Page {
	t.Helper()
	const units = point.PageBytes / chunk.Unit
	b := point.NewBuilder()
	for i := range units {
		var name chunk.Name
		var at point.Place
		binary.BigEndian.PutUint32(name[:], uint32(i+1))
		binary.BigEndian.PutUint32(at.Pack[:], uint32(i%packs+1))
		at.Epoch, at.Ordinal, at.Offset, at.Sealed, at.Plain = 1, 100_000, pack.Target-5000, 4113, chunk.Unit
		b.Add(1, name, at, 0)
	}
	return b.Page()
}

// TestTheMostFragmentedPageCanBeRead: every unit was written by itself, into as
// many packs as there are points in a year of hourly ones.
func TestTheMostFragmentedPageCanBeRead(t *testing.T) {
	data := scattered(t, 24*366).Encode()
	if len(data) > chunk.MaxTable {
		t.Fatalf("%d bytes, a reader takes %d", len(data), chunk.MaxTable)
	}
	p, err := point.DecodePage(data, point.PageBytes/chunk.Unit)
	if err != nil || len(p.Extents) != point.PageBytes/chunk.Unit {
		t.Fatal(err)
	}
}

// TestAPointThatExpiresInTheFarFutureDoesNotExpireNow: the number in a manifest
// ends in the year 2262.
func TestAPointThatExpiresInTheFarFutureDoesNotExpireNow(t *testing.T) {
	secret := backstay.NewSecret(make([]byte, seal.MasterSize))
	keys, err := seal.NewKeys("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11", secret)
	if err != nil {
		t.Fatal(err)
	}
	id := backstay.PointID("01M81B5H800000000000000000")
	for _, year := range []int{2100, 2262, 2300, 9999} {
		expires := time.Date(year, 6, 1, 0, 0, 0, 0, time.UTC)
		h := point.Header{Epoch: 1, Time: time.Unix(0, 0), Expires: &expires}
		data, _, err := point.Encode(keys, id, h, point.Body{Facts: backstay.RecoveryPoint{ID: id}, Definition: []byte("{}")})
		if err != nil {
			t.Fatal(err)
		}
		got, err := point.DecodeHeader(keys, id, data)
		if err != nil {
			t.Fatal(err)
		}
		if got.Expires != nil && !got.Expires.Equal(expires) {
			t.Errorf("expires %v, and was to in %d", got.Expires, year)
		}
	}
}
