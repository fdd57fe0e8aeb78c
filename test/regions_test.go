//go:build integration

package test

import (
	"context"
	"encoding/json"

	"github.com/rogpeppe/go-internal/testscript"

	"github.com/backstay/backstay/internal/sandbox"
)

func init() {
	for name, do := range map[string]func(*sandbox.Regions, *story, call) error{
		"in": func(r *sandbox.Regions, s *story, c call) error {
			w, err := r.World(c.args[0])
			if err == nil {
				s.enter(c.ts, w)
			}
			return err
		},
		"link": func(r *sandbox.Regions, _ *story, c call) error { return r.SetLink(c.ctx, c.args[0], c.optional(1)) },
		"burn": func(r *sandbox.Regions, _ *story, c call) error { return r.Burn(c.ctx, c.args[0]) },
		"passed": func(r *sandbox.Regions, _ *story, c call) error {
			stats, err := r.Passed(c.ctx)
			if err != nil {
				return err
			}
			text, err := json.Marshal(stats)
			return c.print(string(text)+"\n", err)
		},
		"rebuild": func(r *sandbox.Regions, s *story, c call) error {
			if err := r.Rebuild(c.ctx, c.args[0]); err != nil {
				return err
			}
			w, err := r.World(c.args[0])
			if err == nil {
				s.announce(c.ts, w)
				s.enter(c.ts, w)
			}
			return err
		},
	} {
		least := 1
		if name == "passed" {
			least = 0
		}
		commands[name] = func(ts *testscript.TestScript, neg bool, args []string) {
			s := ts.Value(storyKey{}).(*story)
			if s.regions == nil {
				ts.Fatalf("the story has no two regions")
			}
			positive(least, func(c call) error { return do(s.regions, s, c) })(ts, neg, args)
		}
	}
}

// bringUpRegions is the command `world` for two regions; the first is the one that
// the next commands are about.
func (s *story) bringUpRegions(ctx context.Context, ts *testscript.TestScript, o sandbox.Options, names []string) {
	r, err := sandbox.UpRegions(ctx, o, names...)
	ts.Check(err)
	ts.Defer(func() { takeDown(ts, r.Down) })
	s.regions = r
	for _, w := range r.Worlds {
		s.announce(ts, w)
	}
	s.enter(ts, r.Worlds[0])
}

// announce tells a region's variables to the story, whichever it is in.
func (s *story) announce(ts *testscript.TestScript, w *sandbox.World) {
	s.enter(ts, w)
	for _, name := range []string{"URL", "TOKEN", "KEYFILE", "WORLD"} {
		ts.Setenv(name+"_"+w.Region.Name(), ts.Getenv(name))
	}
	ts.Setenv("CONFIG_"+w.Region.Name(), w.Region.Client)
	ts.Setenv("PAIR_"+w.Region.Name(), w.Region.PairAddress())
}
