package vault_test

import (
	"bytes"
	"flag"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/tier/vault"
)

// TestAnyHistoryKeepsEveryPointsBytes runs backups (with a map, without, and cut
// off in the middle), drops, and damage to single copies in any order against a
// model: every kept point restores to its bytes, and nothing else is listed.
func TestAnyHistoryKeepsEveryPointsBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		model := map[backstay.PointID][]byte{}
		data := sparse(rapid.Uint64().Draw(rt, "disk"), 1<<20+512)
		var newest backstay.PointID
		var since []backstay.Range // changes since newest
		fail := func(err error) {
			if err != nil {
				rt.Fatal(err)
			}
		}
		rt.Repeat(map[string]func(*rapid.T){
			"write": func(rt *rapid.T) {
				since = append(since, change(rapid.Uint64().Draw(rt, "change"), data, rapid.IntRange(1, 6).Draw(rt, "runs"))...)
			},
			"backup": func(rt *rapid.T) {
				id := newID()
				_, err := backup(w.ctx, w.vault, vault.WriteOptions{Point: id, Parent: newest},
					source{target: "vda", disk: &disk{data: data}, changed: since, mapped: rapid.Bool().Draw(rt, "mapped")})
				fail(err)
				model[id], newest, since = slices.Clone(data), id, nil
			},
			"broken backup": func(rt *rapid.T) {
				id := newID()
				f := &fault.Fault{Kind: fault.Fail, Nth: rapid.IntRange(1, 3).Draw(rt, "put"), Onwards: true}
				_, v := w.flaky(f)
				_, err := backup(w.ctx, v, vault.WriteOptions{Point: id, Parent: newest}, source{target: "vda", disk: &disk{data: data}, changed: since, mapped: true})
				if err == nil {
					model[id], newest, since = slices.Clone(data), id, nil
				}
			},
			"drop": func(rt *rapid.T) {
				for id := range model {
					fail(w.vault.DropPoint(w.ctx, id, created))
					delete(model, id)
					break
				}
			},
			"damage one copy": func(rt *rapid.T) { damageOneCopy(rt, w) },
			"reopen":          func(rt *rapid.T) { w.vault = w.open(w.store) },
			"": func(rt *rapid.T) {
				headers, err := w.vault.Points(w.ctx)
				fail(err)
				if len(headers) != len(model) {
					rt.Fatalf("%d points are listed, want %d", len(headers), len(model))
				}
				for id, want := range model {
					got, err := restore(w.ctx, w.vault, id, "vda")
					fail(err)
					if !bytes.Equal(got, want) {
						rt.Fatalf("point %s is not what was backed up", id)
					}
				}
			},
		})
	})
}

// damageOneCopy flips a bit of a manifest in the last copy.
func damageOneCopy(rt *rapid.T, w *world) {
	names := w.objects("points/")
	if len(names) == 0 {
		return
	}
	name := rapid.SampledFrom(names).Draw(rt, "object")
	bad := slices.Clone(w.get(0, name))
	bad[rapid.IntRange(0, len(bad)-1).Draw(rt, "byte")] ^= 1
	w.copies[2].Replace(name, bad)
}

// TestMain keeps the fast path fast: -rapid.checks=1000 asks for more histories.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "4")
		_ = flag.Set("rapid.steps", "12")
	}
	os.Exit(m.Run())
}
