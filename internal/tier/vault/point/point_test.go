package point

import (
	"math/rand/v2"
	"reflect"
	"testing"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// somePage makes a page of runs, with the units they should map.
func somePage(seed uint64) (*Page, []unitAt) {
	r := rand.New(rand.NewPCG(seed, 1))
	b := NewBuilder()
	var units []unitAt
	for len(units) < 1000 {
		n, name, at := uint32(1+r.IntN(40)), chunk.Name{byte(r.IntN(4))}, uint32(r.IntN(100))
		b.Add(n, name, Place{Pack: pack.ID{name[0] / 2}, Epoch: 1, Ordinal: uint32(name[0]), Offset: 64, Sealed: 9, Plain: chunk.MaxData}, at)
		for i := range n {
			u := unitAt{name, at + i}
			if name.IsZero() {
				u.at = 0
			}
			units = append(units, u)
		}
	}
	return b.Page(), units
}

type unitAt struct {
	name chunk.Name
	at   uint32
}

func TestPageMapsEveryUnitAndSurvivesItsBytes(t *testing.T) {
	for seed := range uint64(50) {
		p, want := somePage(seed)
		got, err := DecodePage(p.Encode(), p.Units)
		if err != nil {
			t.Fatal(err)
		}
		if !reflect.DeepEqual(got, p) {
			t.Fatal("another page came back")
		}
		for u, w := range want {
			_ = p.Slice(uint32(u), uint32(u+1), func(e Extent) error {
				if got := (unitAt{p.Name(e), e.Offset}); e.Units != 1 || e.Start != uint32(u) || got != w {
					t.Fatalf("unit %d: %+v, want %+v", u, got, w)
				}
				return nil
			})
		}
	}
}

func TestPageHasOneForm(t *testing.T) {
	a, at := chunk.Name{1}, Place{Pack: pack.ID{1}, Epoch: 1, Offset: 64, Sealed: 9, Plain: chunk.MaxData}
	split, joined := NewBuilder(), NewBuilder()
	split.Add(3, a, at, 0)
	split.Add(2, a, Place{}, 3)
	split.Add(1, chunk.Name{}, at, 9)
	split.Add(1, chunk.Name{}, Place{}, 0)
	joined.Add(5, a, at, 0)
	joined.Add(2, chunk.Name{}, Place{}, 0)
	if string(split.Page().Encode()) != string(joined.Page().Encode()) {
		t.Error("one content, two forms")
	}
}

func FuzzDecodePage(f *testing.F) {
	for seed := range uint64(3) {
		p, _ := somePage(seed)
		f.Add(p.Encode(), p.Units)
	}
	f.Add(ZeroPage(maxPageUnits).Encode(), uint32(maxPageUnits))
	f.Add([]byte{1, 0xff, 0xff, 0x03, 0xff, 0xff, 0x03}, uint32(65535))
	f.Fuzz(func(t *testing.T, data []byte, units uint32) {
		p, err := DecodePage(data, units)
		if err == nil && data[0] == pageV2 && string(p.Encode()) != string(data) {
			t.Error("a page with two forms is accepted")
		}
	})
}
