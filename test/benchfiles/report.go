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

// line is one subject of a table.
type line struct{ name, title string }

func measured(v float64) bool { return !math.IsNaN(v) }

func (f *figures) times() show.Table {
	t := show.Table{{"what", "times", "median", "worst"}}
	for _, l := range []line{
		{"list/cold", "first listing, point in the vault, the mover just started"},
		{"list/pool", "first listing, point in the vault, a small machine waits"},
		{"list/libguestfs", "`guestfish` lists the same folder of the image itself"},
		{"small/seconds", "a folder and one file of 1 MiB, point in the vault, the mover just started"},
		{"small/whole-seconds", "the whole point: restore disks"},
		{"large/ours", "one large file, in a session"}, {"large/libguestfs", "one large file, in a guestfish that stays"},
		{"tar/ours", "many small files as tar, in a session"}, {"tar/libguestfs", "`tar-out` of the same, in a guestfish that stays"},
		{"index/first", "the index of a point"}, {"index/next", "the index of the next point"},
		{"index/search-one", "find in one point"}, {"index/search-all", "find in all points"},
	} {
		if v := f.Median(l.name); measured(v) {
			if l.name == "index/search-all" {
				l.title = fmt.Sprintf("find in %.0f points", f.Median("index/points"))
			}
			t = append(t, []string{l.title, fmt.Sprint(len(f.Series[l.name])), fmt.Sprintf("%.3f s", v), fmt.Sprintf("%.3f s", f.Worst(l.name))})
		}
	}
	return t
}

func (f *figures) read() show.Table {
	t := show.Table{{"what", "read from the vault", "requests"}}
	for _, l := range []line{{"small/bytes", "a folder and one file of 1 MiB"}, {"small/whole-bytes", "the whole point"}} {
		if v := f.Median(l.name); measured(v) {
			t = append(t, []string{l.title, fmt.Sprintf("%.1f MiB", v/mib), fmt.Sprintf("%.0f", f.Median(l.name+"-requests"))})
		}
	}
	return t
}

type titled struct {
	title string
	table show.Table
}

func (f *figures) tables() []titled { return []titled{{"Times", f.times()}, {"Bytes", f.read()}} }

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
	pageBegin = "<!-- written by make bench-files: begin -->\n"
	pageEnd   = "<!-- written by make bench-files: end -->\n"
)

// write renders everything that was measured into the marked part of a Markdown
// file, and the chart beside it.
func (f *figures) write(path string) error {
	picture := filepath.Join(filepath.Dir(path), "pictures", "benchmarks-files.svg")
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := show.WritePage(path, "# Benchmarks of item-level restore\n\n", pageBegin, pageEnd, f.page(filepath.Base(picture))); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(f.chart()), 0o644)
}

func (f *figures) page(picture string) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n![times of item-level restore](pictures/%s)\n\n## Goals\n\n", f.Context(), picture)
	show.GoalTable(f.goals()).Markdown(&out)
	for _, t := range f.tables() {
		if len(t.table) > 1 {
			fmt.Fprintf(&out, "\n## %s\n\n", t.title)
			t.table.Markdown(&out)
		}
	}
	return out.String()
}

// chart draws times beside those of libguestfs.
func (f *figures) chart() string {
	group := func(title, format string, lines ...line) show.Group {
		g := show.Group{Title: title, Format: format}
		for _, l := range lines {
			if v := f.Median(l.name); measured(v) {
				g.Bars = append(g.Bars, show.Bar{Title: l.title, Value: v, Own: l.title != "libguestfs"})
			}
		}
		return g
	}
	return show.Chart("Times of item-level restore", []show.Group{
		group("first listing, seconds", "%.2f", line{"list/cold", "backstay, from the vault"}, line{"list/pool", "backstay, a machine waits"}, line{"list/libguestfs", "libguestfs"}),
		group("one large file, seconds", "%.1f", line{"large/ours", "backstay"}, line{"large/libguestfs", "libguestfs"}),
		group("many small files as tar, seconds", "%.1f", line{"tar/ours", "backstay"}, line{"tar/libguestfs", "libguestfs"}),
		group("one file of 1 MiB, seconds", "%.1f", line{"small/seconds", "backstay, the file"}, line{"small/whole-seconds", "backstay, the whole disk"}),
	})
}
