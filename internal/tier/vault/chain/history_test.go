package chain_test

import (
	"flag"
	"os"
	"slices"
	"testing"

	"pgregory.net/rapid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob/fault"
	"github.com/backstay/backstay/internal/tier/vault/chain"
)

// TestAnyHistoryKeepsWhatWasAcknowledged runs several processes that append to
// one chain, with faults in single copies at any call and processes that end
// there, and damage to single copies: what was acknowledged stays, nothing comes
// in that nobody wanted, and the chain can always be read and appended to.
func TestAnyHistoryKeepsWhatWasAcknowledged(t *testing.T) {
	rapid.Check(t, func(rt *rapid.T) {
		w := newWorld(t)
		w.fill(0, rapid.SampledFrom([]int{0, 1, chain.Every - 4, 2*chain.Every - 3}).Draw(rt, "before"))
		start, err := w.log.Read(w.ctx)
		w.must(err)
		live := start.Live // acknowledged
		var tried []backstay.PointID
		logs := []process{{w.log}, {w.open()}}
		n := 10_000
		rt.Repeat(map[string]func(*rapid.T){
			"append": func(rt *rapid.T) {
				n++
				r := commit(n)
				tried = append(tried, r.Point)
				if _, err := add(w.ctx, rapid.SampledFrom(logs).Draw(rt, "log").Log, r); err != nil {
					rt.Fatal(err)
				}
				live[r.Point] = r.Root
			},
			"broken append": func(rt *rapid.T) {
				n++
				r := commit(n)
				tried = append(tried, r.Point)
				faults := make([]*fault.Fault, 3)
				for i := range faults {
					if rapid.Bool().Draw(rt, "fails") {
						faults[i] = &fault.Fault{Kind: rapid.SampledFrom([]fault.Kind{fault.Fail, fault.FailLate, fault.Corrupt, fault.Cut}).Draw(rt, "kind"),
							Call: rapid.SampledFrom([]fault.Call{fault.Put, fault.Get, fault.List, fault.Delete}).Draw(rt, "call"),
							Nth:  rapid.IntRange(1, 4).Draw(rt, "nth"), Onwards: rapid.Bool().Draw(rt, "onwards")}
					}
				}
				if _, err := add(w.ctx, w.open(faults...), r); err == nil {
					live[r.Point] = r.Root
				}
			},
			"damage one copy": func(rt *rapid.T) {
				s, err := w.open().Read(w.ctx)
				if err != nil {
					rt.Fatal(err)
				}
				seq := s.Seq / 2
				if seq > 0 {
					w.copies[seq%3].Replace(chain.Object(seq), []byte("x"))
				}
			},
			"new process": func(*rapid.T) { logs = append(logs, process{w.open()}) },
			"": func(rt *rapid.T) {
				for _, l := range append(slices.Clone(logs), process{w.open()}) {
					s, err := l.Read(w.ctx)
					if err != nil {
						rt.Fatal(err)
					}
					for p, root := range live {
						if s.Live[p] != root {
							rt.Fatalf("point %s was acknowledged and is not there", p)
						}
					}
					if len(s.Live) > len(start.Live)+len(tried) {
						rt.Fatalf("%d points, %d were tried", len(s.Live), len(tried))
					}
				}
			},
		})
	})
}

// TestMain keeps the fast path fast: -rapid.checks=1000 asks for more histories.
func TestMain(m *testing.M) {
	flag.Parse()
	asked := false
	flag.Visit(func(f *flag.Flag) { asked = asked || f.Name == "rapid.checks" })
	if !asked {
		_ = flag.Set("rapid.checks", "10")
		_ = flag.Set("rapid.steps", "15")
	}
	os.Exit(m.Run())
}

// process is one that appends; it prints briefly.
type process struct{ *chain.Log }

func (process) String() string { return "process" }
