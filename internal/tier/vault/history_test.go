package vault_test

import (
	"bytes"
	"flag"
	"maps"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/tier/vault"
)

// TestAnyHistoryKeepsEveryPointsBytes runs backups (with a map, without, and cut
// off in the middle), drops, reclaims (with and without a repack, and killed at
// any write), damage to a single copy, verifying and repair in any order against a
// model: every kept point restores to its bytes, and nothing else is listed.
func TestAnyHistoryKeepsEveryPointsBytes(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		h := &story{world: newWorld(t), model: kept{}}
		h.data = sparse(rapid.Uint64().Draw(rt, "disk"), 1<<20+512)
		rt.Repeat(map[string]func(*rapid.T){
			"write": h.write, "backup": h.backUp, "broken backup": h.brokenBackup, "drop": h.dropOne,
			"reclaim": h.reclaimed, "killed reclaim": h.killedReclaim, "damage": h.damage, "repair": h.repair,
			"reopen": func(*rapid.T) { h.vault = h.open(h.store) },
			"":       h.holds,
		})
	})
}

// story is a vault with what it should hold.
type story struct {
	*world
	model  kept
	data   []byte
	newest backstay.PointID
	since  []backstay.Range // changes since newest
	harmed bool             // a copy was damaged since the last repair
}

func (h *story) fail(rt *rapid.T, err error) {
	rt.Helper()
	if err != nil {
		rt.Fatal(err)
	}
}

func (h *story) write(rt *rapid.T) {
	h.since = append(h.since, change(rapid.Uint64().Draw(rt, "change"), h.data, rapid.IntRange(1, 6).Draw(rt, "runs"))...)
}

func (h *story) backUp(rt *rapid.T) {
	id := newID()
	_, err := backup(h.ctx, h.vault, vault.WriteOptions{Point: id, Parent: h.newest},
		source{target: "vda", disk: &disk{data: h.data}, changed: h.since, mapped: rapid.Bool().Draw(rt, "mapped")})
	h.fail(rt, err)
	h.model[id], h.newest, h.since = slices.Clone(h.data), id, nil
}

func (h *story) brokenBackup(rt *rapid.T) {
	id := newID()
	f := &fault.Fault{Kind: fault.Fail, Nth: rapid.IntRange(1, 3).Draw(rt, "put"), Onwards: true}
	_, v := h.flaky(f)
	_, err := backup(h.ctx, v, vault.WriteOptions{Point: id, Parent: h.newest}, source{target: "vda", disk: &disk{data: h.data}, changed: h.since, mapped: true})
	if err == nil {
		h.model[id], h.newest, h.since = slices.Clone(h.data), id, nil
	}
}

func (h *story) dropOne(rt *rapid.T) {
	if len(h.model) == 0 {
		return
	}
	id := rapid.SampledFrom(slices.Sorted(maps.Keys(h.model))).Draw(rt, "point")
	h.fail(rt, h.vault.DropPoint(h.ctx, id, created))
	delete(h.model, id)
}

func (h *story) reclaimOptions(rt *rapid.T) vault.ReclaimOptions {
	o := vault.ReclaimOptions{NoRepack: rapid.Bool().Draw(rt, "no repack"), LiveFraction: rapid.SampledFrom([]float64{0, 0.999}).Draw(rt, "live"),
		Memory: rapid.SampledFrom([]int64{0, 400}).Draw(rt, "memory"), Now: created}
	if rapid.Bool().Draw(rt, "nobody writes") {
		o.Writing = writing(vault.Writing{})
	}
	return o
}

// reclaimed may refuse to work on a copy that is not in order, and nothing else.
func (h *story) reclaimed(rt *rapid.T) {
	_, err := h.reclaimAll(h.vault, h.reclaimOptions(rt))
	if h.harmed && backstay.IsCode(err, backstay.CodeReclaimStopped) {
		return
	}
	h.fail(rt, err)
}

func (h *story) killedReclaim(rt *rapid.T) {
	s, _ := h.mortal(rapid.IntRange(0, 40).Draw(rt, "writes"))
	_, _ = h.reclaimAll(h.open(s), h.reclaimOptions(rt))
}

// damage flips a bit of an object in the last copy, or takes it away.
func (h *story) damage(rt *rapid.T) {
	var names []string
	for _, prefix := range []string{"points/", "packs/", "indexes/", "trash/", "moved/"} {
		names = append(names, h.objects(prefix)...)
	}
	if len(names) == 0 {
		return
	}
	name := rapid.SampledFrom(names).Draw(rt, "object")
	bad := slices.Clone(h.get(0, name))
	h.harmed = true
	if at := rapid.IntRange(-1, len(bad)-1).Draw(rt, "byte"); at >= 0 {
		bad[at] ^= 1
		h.copies[2].Replace(name, bad)
		return
	}
	h.must(h.copies[2].Delete(h.ctx, name))
}

// repair mends what verifying finds; nothing may be lost.
func (h *story) repair(rt *rapid.T) {
	report, err := h.vault.Scrub(h.ctx, vault.ScrubOptions{})
	h.fail(rt, err)
	for _, d := range report.Damages {
		if d.Lost() {
			rt.Fatalf("lost: %s", d)
		}
	}
	done, err := h.vault.Repair(h.ctx, report.Damages, vault.RepairOptions{})
	h.fail(rt, err)
	if len(done.Lost)+len(done.Failed) > 0 {
		rt.Fatalf("not mended: %+v", done)
	}
	h.harmed = false
}

func (h *story) holds(rt *rapid.T) {
	headers, err := h.vault.Points(h.ctx)
	h.fail(rt, err)
	if len(headers) != len(h.model) {
		rt.Fatalf("%d points are listed, want %d", len(headers), len(h.model))
	}
	for id, want := range h.model {
		got, err := restore(h.ctx, h.vault, id, "vda")
		h.fail(rt, err)
		if !bytes.Equal(got, want) {
			rt.Fatalf("point %s is not what was backed up", id)
		}
	}
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
