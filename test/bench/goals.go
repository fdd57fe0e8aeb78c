package main

import (
	"fmt"
	"math"
	"strings"

	"github.com/backstay/backstay/test/bench/show"
)

// perPoint is the constant of the object goals: the requests of one point that do
// not grow with it (indexes, tables, manifest, chain, header).
const perPoint = 8

// objectBytes is the step in which the object goals count.
const objectBytes = 16 * mib

// goals are all of the table, in its order.
func (r *results) goals() []show.Goal {
	change := r.get("change").Said
	squeezed := nan(change["squeezed"])
	first, second, restore := r.get("backstay/first"), r.get("backstay/second"), r.get("backstay/restore")
	goals := []show.Goal{
		show.Least("first-vs-fastest-peer", 2, "%.2f").Of(ratio(r.best("first", wall), first.Wall)),
		show.Least("first-of-limit", 0.8, "%.2f").Of(ratio(r.get("primitives").Said["limit"], first.Wall)),
		show.Most("stored-vs-smallest-peer", 1.05, "%.3f").Of(ratio(float64(first.Stored), r.best("first", stored))),
		show.Most("second-vs-fastest-peer", 0.1, "%.3f").Of(ratio(second.Wall, r.best("second", wall))),
		show.Most("second-added", 1.3, "%.2f").Of(ratio(float64(second.Added), squeezed)),
		show.Most("restore-vs-copy", 1.25, "%.2f").Of(ratio(restore.Wall, r.get("cp/restore").Wall)),
		show.Least("restore-vs-fastest-peer", 1, "%.2f").Of(ratio(r.best("restore", wall), restore.Wall)),
		show.Least("restore-after-increments", 0.8, "%.2f").Of(ratio(r.get("backstay/restore-fresh").Wall, r.get("backstay/restore-increments").Wall)),
	}
	return append(append(append(goals, r.readGoals()...), r.memoryGoals()...), r.objectGoals()...)
}

func (r *results) readGoals() []show.Goal {
	cold, warm, qemu := r.get("backstay/cold").Said, r.get("backstay/warm").Said, r.get("qemu/warm").Said
	return []show.Goal{
		show.Most("cold-read-requests", 3, "%.0f").Of(nan(cold["requests"])),
		show.Most("cold-read-MiB", 2, "%.2f").Of(nan(cold["bytes"]) / mib),
		show.Least("warm-iops-depth-1", 0.5, "%.2f").Of(ratio(warm["warm1"], qemu["warm1"])),
		show.Least("warm-iops-depth-16", 0.5, "%.2f").Of(ratio(warm["warm16"], qemu["warm16"])),
	}
}

func (r *results) memoryGoals() []show.Goal {
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
	return []show.Goal{
		show.Most("memory-MiB", 256, "%.0f").Of(nan(float64(peak)) / mib),
		show.Most("memory-plan-1TiB-MiB", 256, "%.0f").Of(nan(float64(r.get("backstay/plan").RSS)) / mib),
		show.Most("index-MiB", 1024, "%.0f").Of(nan(r.get(whole + "/make").Said["disk"]) / mib),
		show.Most("index-open-vs-tenth", 2, "%.2f").Of(ratio(max(open["open"], 1e-3*sign(open["open"])), max(before["open"], 1e-3*sign(before["open"])))),
		show.Most("index-lookup-store-reads", 0, "%.0f").Of(reads),
		show.Most("index-memory-MiB", 256, "%.0f").Of(nan(float64(r.get(whole+"/open").RSS)) / mib),
	}
}

func (r *results) objectGoals() []show.Goal {
	first, restore := r.get("backstay/first"), r.get("backstay/restore")
	return []show.Goal{
		show.Most("puts-per-16MiB-stored", 1, "%.2f").Of(ratio(constantless(first.Said["puts"]), float64(first.Added)/objectBytes)),
		show.Most("gets-per-16MiB-restored", 1.3, "%.2f").Of(ratio(constantless(restore.Said["gets"]), restore.Said["written"]/objectBytes)),
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
