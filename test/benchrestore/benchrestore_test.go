package main

import (
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
		"create/ours-work": 1, "create/theirs-work": 0.8, "create/ours-big": 1.1, "create/theirs-big": 0.8,
		"replace/ours-work": 1, "replace/start-work": 0.5, "replace/undo-work": 0.4, "replace/ours-big": 1, "replace/start-big": 0.5, "replace/undo-big": 0.4,
		"live/ours": 5, "live/local": 4.5, "live/whole": 9, "vault/copy": 8, "vault/disks": 9, "vault/differences": 2, "vault/full": 20,
		"vault/differences-written": 108 * mib, "vault/differences-changed": 100 * mib, "vault/full-written": 1 << 30, "vault/full-changed": 100 * mib,
	} {
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
	f.Series["create/ours-big"] = []float64{1.5}
	f.Series["vault/disks"] = []float64{16}
	delete(f.Series, "live/local")
	said := map[string]string{}
	for _, g := range f.goals() {
		said[g.Name] = g.String()
	}
	for name, want := range map[string]string{
		"create-1TiB-vs-1GiB":        "goal: create-1TiB-vs-1GiB = 1.50 (want <= 1.30): short",
		"disks-speed-vs-sparse-copy": "goal: disks-speed-vs-sparse-copy = 0.50 (want >= 0.80): short",
		"live-agent-vs-local-boot":   "goal: live-agent-vs-local-boot = not measured (want <= 1.30): short",
		"replace-from-vault-vs-full": "goal: replace-from-vault-vs-full = 0.100 (want <= 0.125): holds",
	} {
		if said[name] != want {
			t.Errorf("%q, want %q", said[name], want)
		}
	}
}

// TestWriteKeepsWhatPeopleWrote around the part that it writes.
func TestWriteKeepsWhatPeopleWrote(t *testing.T) {
	f := someFigures(t)
	path := filepath.Join(t.TempDir(), "page.md")
	if err := os.WriteFile(path, []byte("# Mine\n\n"+pageBegin+"old figures\n"+pageEnd+"\nafter\n"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := f.write(path); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	text := string(data)
	if !strings.HasPrefix(text, "# Mine\n\n"+pageBegin) || !strings.HasSuffix(text, pageEnd+"\nafter\n") || strings.Contains(text, "old figures") ||
		!strings.Contains(text, "| undo-vs-start | 0.80 | <= 3.00 | holds |") {
		t.Errorf("the page is\n%s", text)
	}
}

func TestUnknownSectionsAndSizesAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--only", "create,nonsense"}, {"--bulk", "7"}, {"--bulk", "1M"}, {"--rounds", "0"}, {"create"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%q: %+v", args, o)
		}
	}
	o, err := parse([]string{"--only", "create, vault", "--rounds", "3", "--bulk", "1G"})
	if err != nil || len(o.only) != 2 || o.rounds != 3 || o.bulk != gib {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestTheImageIsSparseAndHalfOfItCompresses: else a restore would be measured of
// what nobody has.
func TestTheImageIsSparseAndHalfOfItCompresses(t *testing.T) {
	path := filepath.Join(t.TempDir(), "image")
	if err := os.WriteFile(path, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	const size = 80 * mib
	if err := os.Truncate(path, size); err != nil {
		t.Fatal(err)
	}
	if err := fill(path, size); err != nil {
		t.Fatal(err)
	}
	data, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	var full int
	for at := 0; at < size; at += mib {
		if strings.Trim(string(data[at:at+4096]), "\x00") != "" {
			full++
		}
	}
	if full != dataOf80 || string(data[2048:4096]) == string(data[:2048]) || string(data[2048:4096]) != string(data[mib+2048:mib+4096]) {
		t.Errorf("%d of 80 blocks are data", full)
	}
}
