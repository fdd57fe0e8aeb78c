package mover

import (
	"context"
	"errors"
	"slices"
	"testing"

	backstay "github.com/backstay/backstay"
)

// steps is a job that notes which step runs and skips those that are done.
type steps struct {
	backstay.Run
	done map[string]bool
	log  []string
	bad  map[string]error
}

func (s *steps) Progress(int64, int64) {}
func (s *steps) Step(ctx context.Context, name string, fn func(context.Context) error) error {
	if s.done[name] {
		return nil
	}
	s.log = append(s.log, "begin "+name)
	if err := errors.Join(s.bad[name], fn(ctx)); err != nil {
		return err
	}
	s.log = append(s.log, "end "+name)
	return nil
}

var names = []string{"transfer", "validate"}

func call(reports ...string) func(context.Context, Progress) (int, error) {
	return func(_ context.Context, progress Progress) (int, error) {
		for _, phase := range reports {
			progress(Report{Phase: phase})
		}
		return 7, nil
	}
}

func TestEachPhaseIsAStep(t *testing.T) {
	s := &steps{}
	got, err := Phases(t.Context(), s, names, call("transfer", "validate"), nil)
	if err != nil || got != 7 {
		t.Fatalf("%d, %v", got, err)
	}
	if !slices.Equal(s.log, []string{"begin transfer", "end transfer", "begin validate", "end validate"}) {
		t.Errorf("%q", s.log)
	}
}

func TestACallThatReportsNoPhaseStillEndsEveryStep(t *testing.T) {
	s := &steps{}
	if got, err := Phases(t.Context(), s, names, call("write"), nil); err != nil || got != 7 || len(s.log) != 4 {
		t.Errorf("%d, %v, %q", got, err, s.log)
	}
}

func TestAStepThatWasDoneIsNotRunAgainAndTheCallIs(t *testing.T) {
	s := &steps{done: map[string]bool{"transfer": true}}
	if got, err := Phases(t.Context(), s, names, call("transfer", "validate"), nil); err != nil || got != 7 {
		t.Fatalf("%d, %v", got, err)
	}
	if !slices.Equal(s.log, []string{"begin validate", "end validate"}) {
		t.Errorf("%q", s.log)
	}
}

func TestAFailureEndsInTheStepOfItsPhase(t *testing.T) {
	broken := errors.New("broken")
	for _, phase := range names {
		s := &steps{}
		_, err := Phases(t.Context(), s, names, func(_ context.Context, progress Progress) (int, error) {
			progress(Report{Phase: phase})
			return 0, broken
		}, nil)
		if !errors.Is(err, broken) || s.log[len(s.log)-1] != "begin "+phase {
			t.Errorf("in %s: %v, %q", phase, err, s.log)
		}
	}
}

func TestACallIsEndedAndAwaitedWhenAStepFails(t *testing.T) {
	fenced := errors.New("fenced")
	ended := false
	s := &steps{bad: map[string]error{"transfer": fenced}}
	_, err := Phases(t.Context(), s, names, func(ctx context.Context, progress Progress) (int, error) {
		progress(Report{Phase: "validate"})
		<-ctx.Done()
		ended = true
		return 0, ctx.Err()
	}, nil)
	if !errors.Is(err, fenced) || !ended {
		t.Errorf("%v, the call ended: %v", err, ended)
	}
}

func TestEveryReportIsPassedOn(t *testing.T) {
	var packs []string
	_, err := Phases(t.Context(), &steps{}, names, func(_ context.Context, progress Progress) (int, error) {
		progress(Report{Pack: "a"})
		progress(Report{Pack: "b"})
		return 0, nil
	}, func(r Report) { packs = append(packs, r.Pack) })
	if err != nil || !slices.Equal(packs, []string{"a", "b"}) {
		t.Errorf("%q, %v", packs, err)
	}
}
