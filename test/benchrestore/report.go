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
		{"create/ours-work", "create VM from the snapshot tier, disk of 1 GiB"}, {"create/theirs-work", "`virsh define` and `start` of the same VM, image ready"},
		{"create/ours-big", "create VM from the snapshot tier, disk of 1 TiB"}, {"create/theirs-big", "`virsh define` and `start` of the same VM, image ready"},
		{"replace/start-work", "`virsh start` alone, disk of 1 GiB"}, {"replace/ours-work", "replace disks from the snapshot tier, VM off to VM running"},
		{"replace/undo-work", "undo of it"},
		{"replace/start-big", "`virsh start` alone, disk of 1 TiB"}, {"replace/ours-big", "replace disks from the snapshot tier, VM off to VM running"},
		{"replace/undo-big", "undo of it"},
		{"live/local", "boot from a local disk until the agent answers"}, {"live/ours", "live restore until the agent answers"},
		{"live/whole", "live restore until its disks are copied"},
		{"vault/copy", "`cp --sparse=always` of the large image, and sync"}, {"vault/disks", "restore disks of the same from the vault"},
		{"vault/differences", "replace disks from the vault, only what differs"}, {"vault/full", "replace disks from the vault, whole"},
	} {
		if v := f.Median(l.name); measured(v) {
			t = append(t, []string{l.title, fmt.Sprint(len(f.Series[l.name])), fmt.Sprintf("%.2f s", v), fmt.Sprintf("%.2f s", f.Worst(l.name))})
		}
	}
	return t
}

func (f *figures) written() show.Table {
	t := show.Table{{"replace disks from the vault", "changed before", "written"}}
	for _, l := range []line{{"vault/differences", "only what differs"}, {"vault/full", "whole"}} {
		if v := f.Median(l.name + "-written"); measured(v) {
			t = append(t, []string{l.title, fmt.Sprintf("%.0f MiB", f.Median(l.name+"-changed")/mib), fmt.Sprintf("%.0f MiB", v/mib)})
		}
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
	}{{"Times", f.times()}, {"Bytes", f.written()}}
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
	pageBegin = "<!-- written by make bench-restore: begin -->\n"
	pageEnd   = "<!-- written by make bench-restore: end -->\n"
)

// write renders everything that was measured into the marked part of a Markdown
// file, and the chart beside it.
func (f *figures) write(path string) error {
	picture := filepath.Join(filepath.Dir(path), "pictures", "benchmarks-restore.svg")
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := show.WritePage(path, "# Benchmarks of restores\n\n", pageBegin, pageEnd, f.page(filepath.Base(picture))); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(f.chart()), 0o644)
}

func (f *figures) page(picture string) string {
	var out bytes.Buffer
	fmt.Fprintf(&out, "%s\n\n![times of restores](pictures/%s)\n\n## Goals\n\n", f.Context(), picture)
	show.GoalTable(f.goals()).Markdown(&out)
	for _, t := range f.tables() {
		if len(t.table) > 1 {
			fmt.Fprintf(&out, "\n## %s\n\n", t.title)
			t.table.Markdown(&out)
		}
	}
	return out.String()
}

// chart draws times beside those by hand.
func (f *figures) chart() string {
	group := func(title, format string, lines ...line) show.Group {
		g := show.Group{Title: title, Format: format}
		for _, l := range lines {
			if v := f.Median(l.name); measured(v) {
				g.Bars = append(g.Bars, show.Bar{Title: l.title, Value: v, Own: len(l.title) > 7 && l.title[:8] == "backstay"})
			}
		}
		return g
	}
	return show.Chart("Times of restores", []show.Group{
		group("new VM from the snapshot tier, seconds", "%.2f", line{"create/ours-work", "backstay, 1 GiB"}, line{"create/ours-big", "backstay, 1 TiB"}, line{"create/theirs-work", "virsh define and start"}),
		group("replace disks from the snapshot tier, seconds", "%.2f", line{"replace/ours-work", "backstay, 1 GiB"}, line{"replace/ours-big", "backstay, 1 TiB"}, line{"replace/start-work", "virsh start alone"}),
		group("undo, seconds", "%.2f", line{"replace/undo-work", "backstay, 1 GiB"}, line{"replace/undo-big", "backstay, 1 TiB"}, line{"replace/start-work", "virsh start alone"}),
		group("until the agent answers, seconds", "%.1f", line{"live/ours", "backstay, live restore"}, line{"live/local", "boot from a local disk"}),
		group("disks out of the vault, seconds", "%.1f", line{"vault/disks", "backstay"}, line{"vault/copy", "cp --sparse=always"}),
		group("replace disks from the vault, seconds", "%.1f", line{"vault/differences", "backstay, what differs"}, line{"vault/full", "backstay, whole"}),
	})
}
