package main

import (
	"os"
	"path/filepath"
	"strings"
	"testing"
)

func someFigures(t *testing.T) *figures {
	f, err := loadFigures(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for name, v := range map[string]float64{"store/raw": 100 * mib, "store/ours": 90 * mib, "store/requests-per-GiB": 70,
		"line/raw": 20 * mib, "line/ours": 18 * mib, "lag/ideal": 3, "lag/ours": 6} {
		f.Series[name] = []float64{v}
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
	f.Series["line/ours"] = []float64{15 * mib}
	delete(f.Series, "lag/ours")
	said := map[string]string{}
	for _, g := range f.goals() {
		said[g.Name] = g.String()
	}
	for name, want := range map[string]string{
		"replication-speed-vs-line":        "goal: replication-speed-vs-line = 0.75 (want >= 0.80): short",
		"lag-of-the-newest-point-vs-ideal": "goal: lag-of-the-newest-point-vs-ideal = not measured (want <= 3.00): short",
	} {
		if said[name] != want {
			t.Errorf("%q, want %q", said[name], want)
		}
	}
}

func TestWriteKeepsWhatPeopleWrote(t *testing.T) {
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("# Mine\n\n"+pageBegin+"old figures\n"+pageEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := someFigures(t).write(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if text := string(data); !strings.HasSuffix(text, pageEnd+"\nafter\n") || strings.Contains(text, "old figures") || !strings.Contains(text, "| calls-per-GiB | 70 |") {
		t.Errorf("the page is\n%s", text)
	}
}

func TestUnknownSectionsAndSizesAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--only", "line,nonsense"}, {"--size", "7"}, {"--rounds", "0"}, {"--fresh", "1G"}, {"line"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%q: %+v", args, o)
		}
	}
	if o, err := parse([]string{"--only", "lag", "--size", "2G", "--line", "50M"}); err != nil || o.line != 50*mib || o.size != 2*gib {
		t.Errorf("%+v, %v", o, err)
	}
}
