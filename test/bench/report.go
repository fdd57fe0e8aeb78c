package main

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"slices"
	"strings"

	"github.com/backstay/backstay/test/bench/show"
)

// row is one subject of the table.
type row struct {
	name, title string
}

// rows are the subjects in the order in which they are shown.
var rows = []row{
	{"backstay", "backstay"}, {"three", "backstay, three copies"},
	{"restic", "restic"}, {"kopia", "kopia, fixed 1 MiB, zstd-fastest"}, {"borg", "borg, fixed 1 MiB, zstd 1"},
	{"qemu-zstd", "qemu-img convert -c, zstd"}, {"qemu-zlib", "qemu-img convert -c, zlib"},
	{"virtnbd", "virtnbdbackup"}, {"qemu-convert", "qemu-img convert, plain"}, {"cp", "cp --sparse=always"},
}

// seconds, megabytes and times render a figure, or nothing if there is none.
func seconds(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.1f s", v)
}

func megabytes(v float64) string {
	if v == 0 {
		return ""
	}
	return fmt.Sprintf("%.0f MiB", v/mib)
}

func times(v, base float64) string {
	if v == 0 || base == 0 {
		return ""
	}
	return fmt.Sprintf(" (%.2f×)", v/base)
}

// mainTable is the table: absolute, and as ratios to backstay.
func (r *results) mainTable() show.Table {
	t := show.Table{{"", "first backup", "stored", "second backup", "added", "restore", "CPU, first", "memory"}}
	own := func(step string) figure { return r.get("backstay/" + step) }
	for _, s := range rows {
		first, second, restore := r.get(s.name+"/first"), r.get(s.name+"/second"), r.get(s.name+"/restore")
		if first.Wall+second.Wall+restore.Wall == 0 {
			continue
		}
		t = append(t, []string{s.title,
			seconds(first.Wall) + times(first.Wall, own("first").Wall),
			megabytes(float64(first.Stored)) + times(float64(first.Stored), float64(own("first").Stored)),
			seconds(second.Wall) + times(second.Wall, own("second").Wall),
			megabytes(float64(second.Added)) + times(float64(second.Added), float64(own("second").Added)),
			seconds(restore.Wall) + times(restore.Wall, own("restore").Wall),
			seconds(first.CPU), megabytes(float64(max(first.RSS, second.RSS, restore.RSS)))})
		if s.name == "backstay" {
			n := r.get("backstay/second-nomap")
			t = append(t, []string{"… without a change map", "", "", seconds(n.Wall) + times(n.Wall, second.Wall),
				megabytes(float64(n.Added)) + times(float64(n.Added), float64(second.Added)), "", "", megabytes(float64(n.RSS))})
		}
	}
	return t
}

// limitTable says what the primitives allow.
func (r *results) limitTable() show.Table {
	p := r.get("primitives").Said
	if p == nil {
		return nil
	}
	t := show.Table{{"primitive, all cores", "MiB/s"}}
	for _, name := range []string{"read", "hash", "compress", "seal", "write"} {
		t = append(t, []string{name, fmt.Sprintf("%.0f", p[name])})
	}
	first := r.get("backstay/first").Wall
	share := ""
	if first > 0 {
		share = fmt.Sprintf("; the first backup reaches %.2f of that", p["limit"]/first)
	}
	t = append(t, []string{"one after the other, for the whole image", fmt.Sprintf("%.1f s%s", p["limit"], share)})
	if peer := r.best("first", wall); peer > 0 {
		t = append(t, []string{"the fastest peer's time divided by that", fmt.Sprintf("%.2f", peer/p["limit"])})
	}
	return t
}

// changeTable says what the change is.
func (r *results) changeTable() show.Table {
	c := r.get("change").Said
	if c == nil {
		return nil
	}
	t := show.Table{{"the change, counted in", "bytes"}}
	for _, k := range [][2]string{{"4k", "4 KiB blocks"}, {"64k", "64 KiB blocks"}, {"1m", "1 MiB blocks"}, {"4m", "4 MiB blocks"}} {
		t = append(t, []string{k[1], megabytes(c[k[0]])})
	}
	return append(t, []string{"4 KiB blocks, compressed (zstd fastest, 1 MiB at a time)", megabytes(c["squeezed"])},
		[]string{"4 KiB blocks, compressed one by one", megabytes(c["single"])},
		[]string{"runs of changed blocks", fmt.Sprintf("%.0f", c["runs"])})
}

// readTable is about random reads of 4 KiB.
func (r *results) readTable() show.Table {
	cold, warm, qemu := r.get("backstay/cold").Said, r.get("backstay/warm").Said, r.get("qemu/warm").Said
	if cold == nil || warm == nil {
		return nil
	}
	n := func(v float64) string { return fmt.Sprintf("%.0f", v) }
	return show.Table{{"reads of 4 KiB, in a second", "depth 1", "depth 16"},
		{fmt.Sprintf("backstay by NBD, working set of %s, read before", megabytes(warm["set"])), n(warm["warm1"]), n(warm["warm16"])},
		{"qemu-nbd, local qcow2, the same", n(qemu["warm1"]), n(qemu["warm16"])},
		{fmt.Sprintf("backstay, anywhere in the disk (%.2f requests a read)", warm["requestsPerRead"]), n(warm["uncached1"]), n(warm["uncached16"])},
		{"first read out of a point" + coldKinds(cold), fmt.Sprintf("%.0f requests, %.2f MiB, %.1f ms", cold["requests"], cold["bytes"]/mib, 1000*cold["seconds"]), ""}}
}

// coldKinds lists of what kinds the requests of a first read are.
func coldKinds(cold map[string]float64) string {
	var kinds []string
	for k, n := range cold {
		if kind, ok := strings.CutPrefix(k, "of "); ok && n > 0 {
			kinds = append(kinds, fmt.Sprintf("%s %.0f", kind, n))
		}
	}
	if len(kinds) == 0 {
		return ""
	}
	slices.Sort(kinds)
	return " (" + strings.Join(kinds, ", ") + ")"
}

// incrementTable is about restoring after many increments.
func (r *results) incrementTable() show.Table {
	inc := r.get("backstay/increments")
	last, fresh := r.get("backstay/restore-increments"), r.get("backstay/restore-fresh")
	if inc.Said["points"] == 0 {
		return nil
	}
	return show.Table{{"", "time", "", ""},
		{fmt.Sprintf("%.0f increments, sum", inc.Said["points"]), seconds(inc.Wall), megabytes(inc.Said["changed"]) + " changed in 4 KiB blocks", megabytes(float64(inc.Added)) + " added"},
		{"restore of the last one", seconds(last.Wall), fmt.Sprintf("%.0f GETs", last.Said["gets"]), megabytes(last.Said["getBytes"]) + " read"},
		{"restore of a first backup of the same state", seconds(fresh.Wall), fmt.Sprintf("%.0f GETs", fresh.Said["gets"]), megabytes(fresh.Said["getBytes"]) + " read"},
		{"restore of the first point", seconds(r.get("backstay/restore-first").Wall), "", ""}}
}

// indexTable is about the synthetic index and the synthetic disk.
func (r *results) indexTable() show.Table {
	t := show.Table{{"chunks", "on disk", "made in", "memory, making", "opened in", "memory, open", "lookups/s, there", "lookups/s, not there"}}
	whole := r.get("index").Said["chunks"]
	for _, n := range []float64{whole / 100, whole / 10, whole} {
		built, open := r.get(fmt.Sprintf("index/%.0f/make", n)), r.get(fmt.Sprintf("index/%.0f/open", n))
		if built.Said == nil || open.Said == nil {
			continue
		}
		t = append(t, []string{fmt.Sprintf("%.0f", n), megabytes(built.Said["disk"]), seconds(built.Wall), megabytes(float64(built.RSS)),
			fmt.Sprintf("%.1f ms", 1000*open.Said["open"]), megabytes(float64(open.RSS)), fmt.Sprintf("%.0f", open.Said["hits"]), fmt.Sprintf("%.0f", open.Said["misses"])})
	}
	if len(t) == 1 {
		return nil
	}
	return t
}

func (r *results) planTable() show.Table {
	f := r.get("backstay/plan")
	if f.Said == nil {
		return nil
	}
	return show.Table{{"disk of 1 TiB with 100 GiB of data, without its content", ""},
		{"peak memory of making and reading back", megabytes(float64(f.RSS))},
		{"time", seconds(f.Wall)},
		{fmt.Sprintf("%.0f pages", f.Said["pages"]), megabytes(f.Said["pageBytes"])},
		{"manifest", fmt.Sprintf("%.0f KiB", f.Said["manifestBytes"]/1024)},
		{fmt.Sprintf("%.0f index objects for %.0f chunks", f.Said["indexes"], f.Said["chunks"]), megabytes(f.Said["indexBytes"])},
		{"local index", megabytes(f.Said["cacheFiles"])}}
}

// objectTable counts requests to the one copy.
func (r *results) objectTable() show.Table {
	t := show.Table{{"requests", "PUT", "GET", "other", "put", "got"}}
	for _, k := range []struct{ name, title string }{{"first", "first backup"}, {"second", "second backup"}, {"second-nomap", "second backup without a map"}, {"restore", "restore of the newest"}} {
		s := r.get("backstay/" + k.name).Said
		if s == nil {
			continue
		}
		t = append(t, []string{k.title, fmt.Sprintf("%.0f", s["puts"]), fmt.Sprintf("%.0f", s["gets"]), fmt.Sprintf("%.0f", s["others"]), megabytes(s["putBytes"]), megabytes(s["getBytes"])})
	}
	if len(t) == 1 {
		return nil
	}
	return t
}

func (r *results) sweepTable() show.Table {
	s := r.get("sweep").Said
	if s == nil {
		return nil
	}
	t := show.Table{{"zstd", "chunk", "frame", "ratio, first", "MiB/s, one core", "second, extents", "second, fixed chunks"}}
	for _, k := range settings() {
		if s[k.key()+"/ratio"] == 0 {
			continue
		}
		t = append(t, []string{k.name, fmt.Sprintf("%d KiB", k.chunk>>10), fmt.Sprintf("%d KiB", k.frame>>10), fmt.Sprintf("%.3f", s[k.key()+"/ratio"]),
			fmt.Sprintf("%.0f", s[k.key()+"/speed"]), fmt.Sprintf("%.1f MiB", s[k.key()+"/extents"]/mib), fmt.Sprintf("%.1f MiB", s[k.key()+"/fixed"]/mib)})
	}
	return t
}

// tables are all that there are, with their headings.
func (r *results) tables() []struct {
	title string
	table show.Table
} {
	return []struct {
		title string
		table show.Table
	}{
		{"Backups and restores", r.mainTable()}, {"The limit", r.limitTable()}, {"The change", r.changeTable()},
		{"After many increments", r.incrementTable()}, {"Random reads", r.readTable()}, {"Requests", r.objectTable()},
		{"Index", r.indexTable()}, {"Tables", r.planTable()}, {"Sweep", r.sweepTable()},
	}
}

// print writes everything that was measured as text.
func (b *bench) print(w io.Writer) {
	for _, t := range b.results.tables() {
		if len(t.table) > 1 {
			_, _ = fmt.Fprintf(w, "\n%s\n\n", t.title)
			t.table.Text(w)
		}
	}
	if note := b.results.get("virtnbd/first").Note; note != "" {
		_, _ = fmt.Fprintf(w, "\nThere is no second backup by virtnbdbackup: %s.\n", note)
	}
	_, _ = fmt.Fprintln(w)
}

// write renders everything that was measured into a Markdown file, and the chart.
func (b *bench) write(path, picture string) error {
	var out bytes.Buffer
	r, m := b.results, b.results.Machine
	fmt.Fprintf(&out, "# Benchmarks\n\nWritten by `make bench` (`test/bench`): one run, so the ratios count and not the times. Commit %s, %s.\n\n", m["commit"], m["date"])
	fmt.Fprintf(&out, "Machine: %s, %s cores, %s, Linux %s, %s.\n", m["cpu"], m["cores"], m["memory"], m["kernel"], m["go"])
	fmt.Fprintf(&out, "Image: %s, %s of it no hole. Peers: ", m["image"], megabytes(r.get("primitives").Said["data"]))
	var names []string
	for k := range m {
		if name, ok := strings.CutPrefix(k, "version "); ok && m[k] != "" {
			names = append(names, name)
		}
	}
	slices.Sort(names)
	for i, name := range names {
		if names[i] = m["version "+name]; !strings.HasPrefix(names[i], name) {
			names[i] = name + " " + names[i]
		}
	}
	fmt.Fprintf(&out, "%s.\n\n", strings.Join(names, "; "))
	fmt.Fprintf(&out, "![first backup, second backup and restore in seconds](pictures/%s)\n\n", filepath.Base(picture))
	out.WriteString(method)
	fmt.Fprint(&out, "## Goals\n\n")
	show.GoalTable(r.goals()).Markdown(&out)
	for _, t := range r.tables() {
		if len(t.table) > 1 {
			fmt.Fprintf(&out, "\n## %s\n\n", t.title)
			t.table.Markdown(&out)
		}
	}
	if err := os.MkdirAll(filepath.Dir(picture), 0o755); err != nil {
		return err
	}
	if err := os.WriteFile(path, out.Bytes(), 0o644); err != nil {
		return err
	}
	return os.WriteFile(picture, []byte(r.chart()), 0o644)
}

// method says how it was measured.
const method = `Each measurement is a process of its own; its time ends when everything is durable. All read the same images out of the
page cache, in turn. backstay writes one copy, reads every pack back and decodes it before the point counts; three copies are a line of their own.
The second backup reads its change map from a qcow2 overlay inside the measured time. Sizes are what lies in the repository.
Restores are sparse, and compared with the image afterwards. There is no second backup by virtnbdbackup: ` + incrementNote + `.
Requests are counted in front of the storage unit; the goals for PUT and GET leave out 8 requests for each point.
"second-added" compares what was added with the changed 4 KiB blocks, compressed with zstd at its fastest in pieces of 1 MiB.

`
