package main

import (
	"bytes"
	"fmt"
	"io"
	"math"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/test/bench/show"
)

// figures are everything that was measured.
type figures struct{ *show.Figures }

func loadFigures(dir string) (*figures, error) {
	f, err := show.LoadFigures(dir)
	return &figures{f}, err
}

// goals are what the project wants of replication.
func (f *figures) goals() []show.Goal {
	return []show.Goal{
		show.Least("replication-speed-vs-store", 0.8, "%.2f").Of(f.Ratio("store/ours", "store/raw")),
		show.Least("replication-speed-vs-line", 0.8, "%.2f").Of(f.Ratio("line/ours", "line/raw")),
		show.Most("lag-of-the-newest-point-vs-ideal", 3, "%.2f").Of(f.Ratio("lag/ours", "lag/ideal")),
		show.Most("calls-per-GiB", 200, "%.0f").Of(f.Median("store/requests-per-GiB")),
	}
}

func (f *figures) table() show.Table {
	t := show.Table{{"what", "times", "median", "worst"}}
	for _, l := range []struct{ name, title, unit string }{
		{"store/raw", "three synced copies, written and read back by hand", "MiB/s"}, {"store/ours", "a point, over a link without a bound", "MiB/s"},
		{"store/requests-per-GiB", "calls of the other region for each GiB", ""},
		{"line/raw", "the slow link", "MiB/s"}, {"line/ours", "a point, over the slow link", "MiB/s"},
		{"lag/ideal", "the newest point's bytes on the slow link", "s"}, {"lag/ours", "from the end of its backup until it is whole there, an older point being on its way", "s"},
	} {
		v, worst := f.Median(l.name), f.Worst(l.name)
		if math.IsNaN(v) {
			continue
		}
		if l.unit == "MiB/s" {
			v, worst = v/mib, worst/mib
		}
		t = append(t, []string{l.title, fmt.Sprint(len(f.Series[l.name])), fmt.Sprintf("%.1f %s", v, l.unit), fmt.Sprintf("%.1f %s", worst, l.unit)})
	}
	return t
}

// print writes everything that was measured as text.
func (f *figures) print(w io.Writer) {
	if t := f.table(); len(t) > 1 {
		t.Text(w)
		_, _ = fmt.Fprintln(w)
	}
}

// The part of the page that is written anew; what stands before and after it is
// by hand and stays.
const (
	pageBegin = "<!-- written by make bench-replication: begin -->\n"
	pageEnd   = "<!-- written by make bench-replication: end -->\n"
)

// write renders everything that was measured into the marked part of a Markdown
// file, and the chart beside it.
func (f *figures) write(path string) error {
	picture := filepath.Join(filepath.Dir(path), "pictures", "benchmarks-replication.svg")
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := show.WritePage(path, "# Benchmarks of replication\n\n", pageBegin, pageEnd, f.page(filepath.Base(picture))); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(f.chart()), 0o644)
}

func (f *figures) page(picture string) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n![speed and lag of replication](pictures/%s)\n\n## Goals\n\n", f.Context(), picture)
	show.GoalTable(f.goals()).Markdown(&out)
	out.WriteString("\n## Figures\n\n")
	f.table().Markdown(&out)
	return out.String()
}

// chart draws speeds beside what they are measured by.
func (f *figures) chart() string {
	bar := func(g *show.Group, name, title string, by float64) {
		if v := f.Median(name); !math.IsNaN(v) {
			g.Bars = append(g.Bars, show.Bar{Title: title, Value: v / by, Own: title == "backstay"})
		}
	}
	groups := []show.Group{{Title: "link without a bound, MiB/s"}, {Title: "slow link, MiB/s"}, {Title: "newest point, seconds"}}
	for i, section := range []struct {
		name, raw, title string
		by               float64
	}{{"store", "raw", "three synced copies", mib}, {"line", "raw", "the line", mib}, {"lag", "ideal", "its bytes on the line", 1}} {
		bar(&groups[i], section.name+"/ours", "backstay", section.by)
		bar(&groups[i], section.name+"/"+section.raw, section.title, section.by)
	}
	return show.Chart("Speed and lag of replication", groups)
}
