package main

import (
	"bytes"
	"context"
	"encoding/xml"
	"io"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/test/bench/show"
)

// someResults has a figure for each subject, so that all goals are measured.
func someResults() *results {
	f := map[string]figure{
		"change":               {Said: map[string]float64{"4k": 170 * mib, "squeezed": 60 * mib}},
		"primitives":           {Said: map[string]float64{"limit": 16}},
		"backstay/first":       {Wall: 20, Stored: 1000 * mib, Added: 1000 * mib, RSS: 100 * mib, Said: map[string]float64{"puts": 68, "gets": 3}},
		"backstay/second":      {Wall: 2, Added: 66 * mib},
		"backstay/restore":     {Wall: 6, RSS: 120 * mib, Said: map[string]float64{"gets": 108, "written": 1600 * mib}},
		"cp/restore":           {Wall: 5},
		"restic/first":         {Wall: 60, Stored: 990 * mib},
		"restic/second":        {Wall: 40},
		"restic/restore":       {Wall: 12},
		"borg/first":           {Wall: 42, Stored: 1200 * mib},
		"borg/second":          {Wall: 25},
		"borg/restore":         {Wall: 40},
		"virtnbd/restore":      {Wall: 9},
		"qemu-convert/restore": {Wall: 3},
	}
	return &results{Figures: f, Machine: map[string]string{}}
}

func find(t *testing.T, goals []show.Goal, name string) show.Goal {
	t.Helper()
	i := slices.IndexFunc(goals, func(g show.Goal) bool { return g.Name == name })
	if i < 0 {
		t.Fatalf("there is no goal %s", name)
	}
	return goals[i]
}

func TestAGoalComparesWithTheBestPeer(t *testing.T) {
	goals := someResults().goals()
	for name, want := range map[string]string{
		"first-vs-fastest-peer":   "goal: first-vs-fastest-peer = 2.10 (want >= 2.00): holds",
		"first-of-limit":          "goal: first-of-limit = 0.80 (want >= 0.80): holds",
		"stored-vs-smallest-peer": "goal: stored-vs-smallest-peer = 1.010 (want <= 1.050): holds",
		"second-vs-fastest-peer":  "goal: second-vs-fastest-peer = 0.080 (want <= 0.100): holds",
		"second-added":            "goal: second-added = 1.10 (want <= 1.30): holds",
		"restore-vs-copy":         "goal: restore-vs-copy = 1.20 (want <= 1.25): holds",
		"restore-vs-fastest-peer": "goal: restore-vs-fastest-peer = 1.50 (want >= 1.00): holds",
		"puts-per-16MiB-stored":   "goal: puts-per-16MiB-stored = 0.96 (want <= 1.00): holds",
		"gets-per-16MiB-restored": "goal: gets-per-16MiB-restored = 1.00 (want <= 1.30): holds",
		"memory-MiB":              "goal: memory-MiB = 120 (want <= 256): holds",
	} {
		if got := find(t, goals, name).String(); got != want {
			t.Errorf("got  %s\nwant %s", got, want)
		}
	}
}

func TestAGoalThatIsMissedIsShort(t *testing.T) {
	r := someResults()
	f := r.Figures["backstay/first"]
	f.Wall = 30
	r.Figures["backstay/first"] = f
	for _, name := range []string{"first-vs-fastest-peer", "first-of-limit"} {
		if g := find(t, r.goals(), name); g.Holds || !strings.HasSuffix(g.String(), ": short") {
			t.Errorf("%s", g)
		}
	}
}

func TestWhatWasNotMeasuredNeverHolds(t *testing.T) {
	r := &results{Figures: map[string]figure{}, Machine: map[string]string{}}
	for _, g := range r.goals() {
		if g.Holds || !strings.Contains(g.String(), "not measured") {
			t.Errorf("without a figure: %s", g)
		}
	}
	if !math.IsNaN(ratio(0, 1)) || !math.IsNaN(ratio(1, 0)) {
		t.Error("a ratio of nothing is a number")
	}
}

func TestOfSeveralRoundsTheBestTimeAndTheWorstMemoryStay(t *testing.T) {
	r, err := loadResults(t.TempDir())
	if err != nil {
		t.Fatal(err)
	}
	for i, f := range []figure{{Wall: 5, RSS: 10}, {Wall: 4, RSS: 9}, {Wall: 6, RSS: 30}} {
		if err := r.put("x/first", f, i > 0); err != nil {
			t.Fatal(err)
		}
	}
	again, err := loadResults(filepath.Dir(r.path))
	if err != nil {
		t.Fatal(err)
	}
	if got := again.get("x/first"); got.Wall != 4 || got.RSS != 30 {
		t.Errorf("kept %+v", got)
	}
}

func TestAChangeIsCountedInBlocksOfEachSize(t *testing.T) {
	ranges := []backstay.Range{{Offset: 0, Length: 4096}, {Offset: 8192, Length: 4096}, {Offset: mib - 4096, Length: 8192}, {Offset: 9 * mib, Length: 4096}}
	for size, want := range map[int64]int64{4096: 5 * 4096, 64 << 10: 4 * 64 << 10, mib: 3 * mib, 4 * mib: 8 * mib} {
		if got := inBlocks(ranges, size); got != want {
			t.Errorf("in blocks of %d: %d, want %d", size, got, want)
		}
	}
}

// images writes two sparse files of 4 MiB that differ in three places.
func images(t *testing.T) (string, string) {
	t.Helper()
	a, b := filepath.Join(t.TempDir(), "a"), filepath.Join(t.TempDir(), "b")
	for _, path := range []string{a, b} {
		f, err := os.Create(path)
		if err != nil {
			t.Fatal(err)
		}
		write := func(at int64, text string, n int) {
			if _, err := f.WriteAt(bytes.Repeat([]byte(text), n/len(text)), at); err != nil {
				t.Fatal(err)
			}
		}
		if err := f.Truncate(4 * mib); err != nil {
			t.Fatal(err)
		}
		write(mib, "backstay", 64<<10)
		if path == b {
			write(mib+8192, "xyzt", 4096)      // other content
			write(2*mib, "new content ", 8184) // content where a hole was
			write(mib+32768, "\x00", 4096)     // zeros where content was
			write(3*mib, "\x00", 65536)        // zeros where a hole was: no difference
		}
		if err := f.Close(); err != nil {
			t.Fatal(err)
		}
	}
	return a, b
}

func TestTheDiffOfImagesNamesEachBlockThatDiffers(t *testing.T) {
	a, b := images(t)
	before, err := fingerprint(a)
	if err != nil {
		t.Fatal(err)
	}
	after, err := fingerprint(b)
	if err != nil {
		t.Fatal(err)
	}
	want := []backstay.Range{{Offset: mib + 8192, Length: 4096}, {Offset: mib + 32768, Length: 4096}, {Offset: 2 * mib, Length: 8192}}
	got := before.changes(after)
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
	together, single, err := squeeze(b, got)
	if err != nil {
		t.Fatal(err)
	}
	if together <= 0 || together > single || single > 3*4096/4 {
		t.Errorf("three blocks of repeated text take %d bytes together and %d apart", together, single)
	}
}

func TestARestoreThatDiffersIsFoundOut(t *testing.T) {
	a, b := images(t)
	if _, err := sameImages(t.Context(), task{Image: a, Out: a}); err != nil {
		t.Error(err)
	}
	if _, err := sameImages(t.Context(), task{Image: a, Out: b}); err == nil {
		t.Error("different images are the same")
	}
}

func TestAChangeOfAnUnknownImageStaysInItsData(t *testing.T) {
	a, _ := images(t)
	source := filepath.Join(t.TempDir(), "source")
	if err := os.WriteFile(source, bytes.Repeat([]byte("new"), 100_000), 0o600); err != nil {
		t.Fatal(err)
	}
	list := filepath.Join(t.TempDir(), "sources")
	if err := saveSources(list, []sourceFile{{source, 300_000}}); err != nil {
		t.Fatal(err)
	}
	said, err := changeImage(context.Background(), task{Image: a, Flat: true, Sources: list, Ranges: filepath.Join(t.TempDir(), "r"), Bytes: 16 * mib, Step: 1})
	if err != nil {
		t.Fatal(err)
	}
	// All of its data are 64 KiB.
	if said["4k"] == 0 || said["4k"] > 64<<10 {
		t.Errorf("%v bytes changed", said["4k"])
	}
}

func TestTheStreamNeverEndsAndGoesOnWhereItWas(t *testing.T) {
	dir := t.TempDir()
	var files []sourceFile
	for _, text := range []string{"one", "two", "three"} {
		path := filepath.Join(dir, text)
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		files = append(files, sourceFile{path, int64(len(text))})
	}
	files = append(files, sourceFile{filepath.Join(dir, "gone"), 5})
	got := make([]byte, 8)
	s := newStream(files, 3)
	defer s.close()
	if _, err := io.ReadFull(s, got); err != nil || string(got) != "twothree" {
		t.Errorf("read %q, %v", got, err)
	}
}

func TestFixedChunksTakeInWhatLiesBeside(t *testing.T) {
	got := touched([]backstay.Range{{Offset: 4096, Length: 4096}, {Offset: 60 << 10, Length: 8192}, {Offset: mib, Length: 4096}}, 64<<10)
	want := []backstay.Range{{Offset: 0, Length: 128 << 10}, {Offset: mib, Length: 64 << 10}}
	if !slices.Equal(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

func TestTheChartIsWellFormed(t *testing.T) {
	chart := someResults().chart()
	d := xml.NewDecoder(strings.NewReader(chart))
	bars := 0
	for {
		token, err := d.Token()
		if err == io.EOF {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		if e, ok := token.(xml.StartElement); ok && e.Name.Local == "rect" {
			bars++
		}
	}
	// The background, and a bar for each figure of the three steps.
	if bars != 1+3+3+6 {
		t.Errorf("%d rectangles", bars)
	}
}

func TestWrongWordsOnTheCommandLineAreRefused(t *testing.T) {
	for _, args := range [][]string{{"--only", "frist"}, {"--peers", "tar"}, {"--gib", "0"}, {"extra"}} {
		if _, err := parse(args); err == nil {
			t.Errorf("%q was taken", args)
		}
	}
	o, err := parse([]string{"--only", "first,second", "--peers", "none", "--keep", "x"})
	if err != nil || len(o.only) != 2 || len(o.peers) != 0 || !filepath.IsAbs(o.dir) {
		t.Errorf("%+v, %v", o, err)
	}
}
