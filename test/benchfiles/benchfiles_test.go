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
		"list/cold": 3, "list/pool": 0.4, "list/libguestfs": 10, "large/ours": 2, "large/libguestfs": 6, "tar/ours": 20, "tar/libguestfs": 60,
		"small/seconds": 3, "small/whole-seconds": 60, "small/bytes": 20 * mib, "small/whole-bytes": gib, "small/bytes-requests": 20,
		"index/first": 40, "index/next": 3, "index/search-one": 0.5, "index/search-all": 0.8,
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
	f.Series["list/cold"] = []float64{5}
	f.Series["small/bytes"] = []float64{33 * mib}
	delete(f.Series, "tar/libguestfs")
	said := map[string]string{}
	for _, g := range f.goals() {
		said[g.Name] = g.String()
	}
	for name, want := range map[string]string{
		"first-listing-cold-vs-libguestfs": "goal: first-listing-cold-vs-libguestfs = 0.50 (want <= 0.40): short",
		"vault-MiB-for-a-folder-and-1MiB":  "goal: vault-MiB-for-a-folder-and-1MiB = 33.0 (want <= 32.0): short",
		"tar-speed-vs-libguestfs":          "goal: tar-speed-vs-libguestfs = not measured (want >= 2.00): short",
		"large-file-speed-vs-libguestfs":   "goal: large-file-speed-vs-libguestfs = 3.00 (want >= 2.00): holds",
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
		!strings.Contains(text, "| large-file-speed-vs-libguestfs | 3.00 | >= 2.00 | holds |") || !strings.Contains(text, "| 20.0 MiB | 20 |") {
		t.Errorf("the page is\n%s", text)
	}
}

func TestUnknownSectionsAndSizesAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--only", "list,nonsense"}, {"--size", "7"}, {"--size", "1G"}, {"--rounds", "0"}, {"--many", "0"}, {"list"}} {
		if o, err := parse(args); err == nil {
			t.Errorf("%q: %+v", args, o)
		}
	}
	o, err := parse([]string{"--only", "list, tar", "--rounds", "5", "--size", "4G", "--many", "1000", "--large", "8M"})
	if err != nil || len(o.only) != 2 || o.rounds != 5 || o.size != 4*gib || o.large != 8*mib {
		t.Errorf("%+v, %v", o, err)
	}
}

// TestTheDiskHasTheFilesThatAreTaken or what is measured is how quickly nothing is
// found.
func TestTheDiskHasTheFilesThatAreTaken(t *testing.T) {
	o, err := parse([]string{"--size", "4G", "--many", "1500", "--large", "1M"})
	if err != nil {
		t.Fatal(err)
	}
	root := t.TempDir()
	if err := (&bench{o: o}).makeTree(root); err != nil {
		t.Fatal(err)
	}
	for name, size := range map[string]int64{oneFile: mib, largeFile: mib, rest: mib, folder + "/file000.conf": 1500} {
		info, err := os.Stat(filepath.Join(root, name))
		if err != nil || info.Size() != size {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if names, _ := filepath.Glob(root + manyFiles + "/*/*.txt"); len(names) != 1500 {
		t.Errorf("%d small files", len(names))
	}
}
