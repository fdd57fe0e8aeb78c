package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"

	"github.com/backstay/backstay/test/bench/show"
)

// line is one subject of a table.
type line struct{ name, title string }

var stallLines = []line{
	{"points/idle", "idle guest, 1 s"},
	{"points/ours/point", "point, backstay"}, {"points/hand/point", "point, `virsh snapshot-create --quiesce`"},
	{"points/ours/oldest", "merge of the oldest point, backstay"}, {"points/ours/newest", "merge of the newest point, backstay"},
	{"points/hand/merge", "merge, `virsh blockcommit --active --pivot`"},
	{"transfer/idle", "idle guest, as long as a transfer"}, {"transfer/ours", "transfer"},
	{"virtnbd/ours-full", "full backup, backstay"}, {"virtnbd/theirs-full", "full backup, virtnbdbackup"},
	{"virtnbd/ours-increment", "increment, backstay"}, {"virtnbd/theirs-increment", "increment, virtnbdbackup"},
}

var stallBounds = []string{"1", "2", "5", "10", "20", "50", "100", "200", "500", "1000", "2000", "5000", "more"}

// stalls tells for each operation the median and the worst of the worst stalls, and
// how many writes took how long.
func (f *figures) stalls() show.Table {
	t := show.Table{{"while", "times", "stall, median", "stall, worst", "writes/s", "writes that took up to … ms"}}
	for _, l := range stallLines {
		if !measured(f.Median(l.name + "/stall")) {
			continue
		}
		var spread []string
		for _, bound := range stallBounds {
			var n float64
			for _, v := range f.Series[l.name+"/up to "+bound+" ms"] {
				n += v
			}
			if n > 0 {
				spread = append(spread, fmt.Sprintf("%s: %.0f", bound, n))
			}
		}
		t = append(t, []string{l.title, fmt.Sprint(len(f.Series[l.name+"/stall"])), ms(f.Median(l.name + "/stall")), ms(f.Worst(l.name + "/stall")),
			fmt.Sprintf("%.0f", f.Median(l.name+"/writes")), strings.Join(spread, ", ")})
	}
	return t
}

func ms(v float64) string {
	if !measured(v) {
		return ""
	}
	return fmt.Sprintf("%.0f ms", v)
}

func (f *figures) times() show.Table {
	t := show.Table{{"time", "median", "worst"}}
	for _, l := range []line{
		{"points/ours/time-work", "trigger to restorable point, disk of 1 GiB"}, {"points/ours/time-big", "the same, disk of 1 TiB"},
		{"points/hand/time", "`virsh snapshot-create --quiesce`, disk of 1 GiB"},
		{"idle/time-work", "backup of an idle guest, disk of 1 GiB"}, {"idle/time-big", "the same, sparse disk of 1 TiB"},
		{"transfer/ours/seconds", fmt.Sprintf("transfer and validation of %d MiB, watched", transferBytes/mib)},
		{"virtnbd/ours-full/time", fmt.Sprintf("full backup of %d MiB and the system, backstay", wholeBytes/mib)}, {"virtnbd/theirs-full/time", "the same, virtnbdbackup"},
		{"virtnbd/ours-increment/time", fmt.Sprintf("increment of %d MiB, backstay", incrementBytes/mib)}, {"virtnbd/theirs-increment/time", "the same, virtnbdbackup"},
	} {
		if v := f.Median(l.name); measured(v) {
			t = append(t, []string{l.title, fmt.Sprintf("%.2f s", v), fmt.Sprintf("%.2f s", f.Worst(l.name))})
		}
	}
	if v := f.Worst("idle/read-big"); measured(v) {
		t = append(t, []string{"read by a backup of the idle guest, sparse disk of 1 TiB", fmt.Sprintf("%.0f KiB", f.Median("idle/read-big")/1024), fmt.Sprintf("%.0f KiB", v/1024)})
	}
	return t
}

func (f *figures) throughputs() show.Table {
	t := show.Table{{"writes past the guest's cache, MiB/s", "no layer", "eight layers"}}
	for _, l := range []line{
		{"random-fresh", "4 KiB at random, never written before"}, {"random-again", "4 KiB at random, written before"},
		{"sequential-fresh", "256 KiB in a row, never written before"}, {"sequential-again", "256 KiB in a row, written before"},
	} {
		if measured(f.Median("layers/none/" + l.name)) {
			t = append(t, []string{l.title, fmt.Sprintf("%.1f", f.Median("layers/none/"+l.name)), fmt.Sprintf("%.1f", f.Median("layers/eight/"+l.name))})
		}
	}
	if measured(f.Median("layers/kept")) {
		t = append(t, []string{fmt.Sprintf("kept for %.0f MiB changed in single blocks of 4 KiB at random in 64 GiB", f.Median("layers/changed")/mib),
			"", fmt.Sprintf("%.1f MiB", f.Median("layers/kept")/mib)})
	}
	return t
}

func (f *figures) tables() []struct {
	title string
	table show.Table
} {
	return []struct {
		title string
		table show.Table
	}{{"Stalls", f.stalls()}, {"Times", f.times()}, {"Writing on layers", f.throughputs()}}
}

// print writes everything that was measured as text.
func (f *figures) print(w io.Writer) {
	for _, t := range f.tables() {
		if len(t.table) > 1 {
			_, _ = fmt.Fprintf(w, "\n%s\n\n", t.title)
			t.table.Text(w)
		}
	}
	_, _ = fmt.Fprintln(w)
}

// The part of the page that is written anew; what stands before and after it is
// by hand and stays.
const (
	pageBegin = "<!-- written by make bench-snapshot: begin -->\n"
	pageEnd   = "<!-- written by make bench-snapshot: end -->\n"
)

// write renders everything that was measured into the marked part of a Markdown
// file, and the chart beside it.
func (f *figures) write(path string) error {
	picture := filepath.Join(filepath.Dir(path), "pictures", "benchmarks-snapshot.svg")
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := show.WritePage(path, "# Benchmarks of the snapshot tier\n\n", pageBegin, pageEnd, f.page(filepath.Base(picture))); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(f.chart()), 0o644)
}

func (f *figures) page(picture string) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n![worst stalls and times](pictures/%s)\n\n## Goals\n\n", f.Context(), picture)
	show.GoalTable(f.goals()).Markdown(&out)
	for _, t := range f.tables() {
		if len(t.table) > 1 {
			fmt.Fprintf(&out, "\n## %s\n\n", t.title)
			t.table.Markdown(&out)
		}
	}
	return out.String()
}

// chart draws stalls and times beside those of the others.
func (f *figures) chart() string {
	group := func(title, format, suffix string, lines ...line) show.Group {
		g := show.Group{Title: title, Format: format}
		for _, l := range lines {
			if v := f.Median(l.name + suffix); measured(v) {
				g.Bars = append(g.Bars, show.Bar{Title: l.title, Value: v, Own: l.title == "backstay" || strings.HasPrefix(l.title, "backstay,")})
			}
		}
		return g
	}
	return show.Chart("Stalls and times of the snapshot tier", []show.Group{
		group("worst stall of the guest at a point, ms", "%.0f", "/stall", line{"points/ours/point", "backstay"}, line{"points/hand/point", "virsh snapshot-create"}, line{"points/idle", "idle guest"}),
		group("worst stall of the guest in a merge, ms", "%.0f", "/stall", line{"points/ours/oldest", "backstay, oldest point"}, line{"points/ours/newest", "backstay, newest point"}, line{"points/hand/merge", "virsh blockcommit"}),
		group("worst stall of the guest in a transfer, ms", "%.0f", "/stall", line{"transfer/ours", "backstay"}, line{"transfer/idle", "idle guest"}),
		group("trigger to restorable point, seconds", "%.2f", "", line{"points/ours/time-work", "backstay, 1 GiB"}, line{"points/ours/time-big", "backstay, 1 TiB"}, line{"points/hand/time", "virsh snapshot-create, 1 GiB"}),
		group("full backup, seconds", "%.1f", "/time", line{"virtnbd/ours-full", "backstay"}, line{"virtnbd/theirs-full", "virtnbdbackup"}),
		group("increment, seconds", "%.1f", "/time", line{"virtnbd/ours-increment", "backstay"}, line{"virtnbd/theirs-increment", "virtnbdbackup"}),
	})
}
