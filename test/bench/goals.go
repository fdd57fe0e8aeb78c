package main

import (
	"fmt"
	"math"
	"strings"
)

// goal is one thing that the project wants of itself.
type goal struct {
	name  string
	value string
	want  string
	holds bool
	// unmeasured: the figures it needs are not there.
	unmeasured bool
}

// String is the line that every bench target of the project ends with.
func (g goal) String() string {
	switch {
	case g.unmeasured:
		return fmt.Sprintf("goal: %s = not measured (want %s): short", g.name, g.want)
	case g.holds:
		return fmt.Sprintf("goal: %s = %s (want %s): holds", g.name, g.value, g.want)
	default:
		return fmt.Sprintf("goal: %s = %s (want %s): short", g.name, g.value, g.want)
	}
}

// bound is a goal's measure: at least or at most a limit, in a unit.
type bound struct {
	name    string
	atLeast bool
	limit   float64
	format  string
}

// of makes the goal of a value; NaN is one that was not measured.
func (b bound) of(value float64) goal {
	sign := "<="
	if b.atLeast {
		sign = ">="
	}
	g := goal{name: b.name, want: sign + " " + fmt.Sprintf(b.format, b.limit), unmeasured: math.IsNaN(value)}
	g.value = fmt.Sprintf(b.format, value)
	g.holds = !g.unmeasured && (b.atLeast && value >= b.limit || !b.atLeast && value <= b.limit)
	return g
}

func least(name string, limit float64, format string) bound { return bound{name, true, limit, format} }
func most(name string, limit float64, format string) bound  { return bound{name, false, limit, format} }

// perPoint is the constant of the object goals: the requests of one point that do
// not grow with it (indexes, tables, manifest, chain, header).
const perPoint = 8

// objectBytes is the step in which the object goals count.
const objectBytes = 16 * mib

// goals are all of the table, in its order.
func (r *results) goals() []goal {
	change := r.get("change").Said
	squeezed := nan(change["squeezed"])
	first, second, restore := r.get("backstay/first"), r.get("backstay/second"), r.get("backstay/restore")
	goals := []goal{
		least("first-vs-fastest-peer", 2, "%.2f").of(ratio(r.best("first", wall), first.Wall)),
		least("first-of-limit", 0.8, "%.2f").of(ratio(r.get("primitives").Said["limit"], first.Wall)),
		most("stored-vs-smallest-peer", 1.05, "%.3f").of(ratio(float64(first.Stored), r.best("first", stored))),
		most("second-vs-fastest-peer", 0.1, "%.3f").of(ratio(second.Wall, r.best("second", wall))),
		most("second-added", 1.3, "%.2f").of(ratio(float64(second.Added), squeezed)),
		most("restore-vs-copy", 1.25, "%.2f").of(ratio(restore.Wall, r.get("cp/restore").Wall)),
		least("restore-vs-fastest-peer", 1, "%.2f").of(ratio(r.best("restore", wall), restore.Wall)),
		least("restore-after-increments", 0.8, "%.2f").of(ratio(r.get("backstay/restore-fresh").Wall, r.get("backstay/restore-increments").Wall)),
	}
	return append(append(append(goals, r.readGoals()...), r.memoryGoals()...), r.objectGoals()...)
}

func (r *results) readGoals() []goal {
	cold, warm, qemu := r.get("backstay/cold").Said, r.get("backstay/warm").Said, r.get("qemu/warm").Said
	return []goal{
		most("cold-read-requests", 3, "%.0f").of(nan(cold["requests"])),
		most("cold-read-MiB", 2, "%.2f").of(nan(cold["bytes"]) / mib),
		least("warm-iops-depth-1", 0.5, "%.2f").of(ratio(warm["warm1"], qemu["warm1"])),
		least("warm-iops-depth-16", 0.5, "%.2f").of(ratio(warm["warm16"], qemu["warm16"])),
	}
}

func (r *results) memoryGoals() []goal {
	var peak int64
	for name, f := range r.Figures {
		if strings.HasPrefix(name, "backstay/") && name != "backstay/plan" || strings.HasPrefix(name, "three/") {
			peak = max(peak, f.RSS)
		}
	}
	whole := fmt.Sprintf("index/%.0f", r.get("index").Said["chunks"])
	tenth := fmt.Sprintf("index/%.0f", r.get("index").Said["chunks"]/10)
	open, before := r.get(whole+"/open").Said, r.get(tenth+"/open").Said
	reads := math.NaN()
	if open != nil {
		reads = 0 // the process that looked up had no store to read
	}
	return []goal{
		most("memory-MiB", 256, "%.0f").of(nan(float64(peak)) / mib),
		most("memory-plan-1TiB-MiB", 256, "%.0f").of(nan(float64(r.get("backstay/plan").RSS)) / mib),
		most("index-MiB", 1024, "%.0f").of(nan(r.get(whole + "/make").Said["disk"]) / mib),
		most("index-open-vs-tenth", 2, "%.2f").of(ratio(max(open["open"], 1e-3*sign(open["open"])), max(before["open"], 1e-3*sign(before["open"])))),
		most("index-lookup-store-reads", 0, "%.0f").of(reads),
		most("index-memory-MiB", 256, "%.0f").of(nan(float64(r.get(whole+"/open").RSS)) / mib),
	}
}

func (r *results) objectGoals() []goal {
	first, restore := r.get("backstay/first"), r.get("backstay/restore")
	return []goal{
		most("puts-per-16MiB-stored", 1, "%.2f").of(ratio(constantless(first.Said["puts"]), float64(first.Added)/objectBytes)),
		most("gets-per-16MiB-restored", 1.3, "%.2f").of(ratio(constantless(restore.Said["gets"]), restore.Said["written"]/objectBytes)),
	}
}

// constantless takes the constant per point off a number of requests.
func constantless(n float64) float64 {
	if n == 0 {
		return 0
	}
	return max(n-perPoint, 1)
}

func sign(v float64) float64 {
	if v > 0 {
		return 1
	}
	return 0
}

// nan makes what was not measured NaN.
func nan(v float64) float64 {
	if v == 0 {
		return math.NaN()
	}
	return v
}

// ratio divides what was measured.
func ratio(a, b float64) float64 { return nan(a) / nan(b) }

func wall(f figure) float64   { return f.Wall }
func stored(f figure) float64 { return float64(f.Stored) }

// rivals are the subjects that count as peers in each step, with the settings that
// the goals name: qemu-img -c compresses with zlib unless told otherwise. The others
// are in the tables. A plain copy is no rival: it is what a restore is held to.
var rivals = map[string][]string{
	"first":   {"restic", "kopia", "borg", "qemu-zlib"},
	"second":  {"restic", "kopia", "borg"},
	"restore": {"restic", "kopia", "borg", "qemu-zstd", "virtnbd"},
}

// best is the least of the peers' figures in a step; 0 if none was measured.
func (r *results) best(step string, of func(figure) float64) float64 {
	least := 0.0
	for _, peer := range rivals[step] {
		v := of(r.get(peer + "/" + step))
		if v > 0 && (least == 0 || v < least) {
			least = v
		}
	}
	return least
}
