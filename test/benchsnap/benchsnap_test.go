package main

import (
	"math"
	"os"
	"path/filepath"
	"strings"
	"testing"
)

// someFigures has a value for each goal that holds.
func someFigures(t *testing.T) *figures {
	f, err := loadFigures(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]float64{
		"points/idle/stall": 10, "points/ours/point/stall": 50, "points/hand/point/stall": 100,
		"points/ours/oldest/stall": 10, "points/ours/newest/stall": 10, "points/hand/merge/stall": 20,
		"points/ours/time-work": 0.2, "points/ours/time-big": 0.2, "points/hand/time": 0.15,
		"transfer/ours/stall": 11, "transfer/idle/stall": 10, "idle/time-work": 1, "idle/time-big": 1.2, "idle/read-big": 4096,
		"virtnbd/ours-full/time": 2, "virtnbd/theirs-full/time": 5, "virtnbd/ours-increment/time": 1, "virtnbd/theirs-increment/time": 3,
		"virtnbd/ours-full/stall": 90, "virtnbd/theirs-full/stall": 100, "virtnbd/ours-increment/stall": 90, "virtnbd/theirs-increment/stall": 100,
		"layers/kept": 110, "layers/changed": 100,
	} {
		f.Series[name] = []float64{v}
	}
	for _, kind := range []string{"random-fresh", "random-again", "sequential-fresh", "sequential-again"} {
		f.Series["layers/eight/"+kind], f.Series["layers/none/"+kind] = []float64{95}, []float64{100}
	}
	return f
}

func TestGoalsHoldShortOrAreNotMeasured(t *testing.T) {
	f := someFigures(t)
	for _, g := range f.goals() {
		if !g.Holds {
			t.Errorf("with good figures: %s", g)
		}
	}
	f.Series["points/ours/point/stall"] = []float64{70}
	delete(f.Series, "points/hand/time")
	said := map[string]string{}
	for _, g := range f.goals() {
		said[g.Name] = g.String()
	}
	if got := said["point-stall-vs-by-hand"]; got != "goal: point-stall-vs-by-hand = 0.70 (want <= 0.60): short" {
		t.Error(got)
	}
	if got := said["point-time-vs-by-hand"]; !strings.HasSuffix(got, "= not measured (want <= 2.00): short") {
		t.Error(got)
	}
}

// TestOneBadRepetitionDoesNotDecide: goals go by the median.
func TestOneBadRepetitionDoesNotDecide(t *testing.T) {
	f := someFigures(t)
	f.Series["x"] = []float64{900, 10, 12, 11, 13}
	if f.Median("x") != 12 || f.Worst("x") != 900 || !math.IsNaN(f.Median("y")) {
		t.Errorf("median %v, worst %v, of nothing %v", f.Median("x"), f.Worst("x"), f.Median("y"))
	}
	f.Series["z"] = []float64{4, 2}
	if f.Median("z") != 3 {
		t.Errorf("median of two is %v", f.Median("z"))
	}
}

// TestWriteKeepsWhatPeopleWrote around the part that it writes.
func TestWriteKeepsWhatPeopleWrote(t *testing.T) {
	f := someFigures(t)
	path := filepath.Join(t.TempDir(), "docs", "page.md")
	if err := os.Mkdir(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, []byte("# Mine\n\nbefore\n\n"+pageBegin+"old figures\n"+pageEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	for range 2 {
		if err := f.write(path); err != nil {
			t.Fatal(err)
		}
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if !strings.HasPrefix(text, "# Mine\n\nbefore\n\n"+pageBegin) || !strings.HasSuffix(text, pageEnd+"\nafter\n") {
		t.Errorf("what people wrote is gone:\n%s", text)
	}
	if strings.Contains(text, "old figures") || strings.Count(text, "## Goals") != 1 || !strings.Contains(text, "| kept-vs-changed | 1.10 | <= 1.20 | holds |") {
		t.Errorf("the figures are not as measured:\n%s", text)
	}
	if err := os.WriteFile(path, []byte("# Mine\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.write(path); err == nil {
		t.Error("a page without the marks was overwritten")
	}
}

func TestUnknownSectionsAreRefused(t *testing.T) {
	if _, err := parse([]string{"--only", "points,nonsense"}); err == nil || !strings.Contains(err.Error(), "nonsense") {
		t.Errorf("error %v", err)
	}
	o, err := parse([]string{"--only", "points, layers", "--rounds", "3"})
	if err != nil || len(o.only) != 2 || o.rounds != 3 {
		t.Errorf("%+v, %v", o, err)
	}
}
