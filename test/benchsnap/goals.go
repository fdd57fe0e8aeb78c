package main

import (
	"math"

	"github.com/backstay/backstay/test/bench/show"
)

// goals are what the project wants of its snapshot tier. Stalls are medians of the
// worst stall of each repetition.
func (f *figures) goals() []show.Goal {
	byHand := f.Median("points/hand/time")
	return []show.Goal{
		show.Most("point-stall-vs-by-hand", 0.6, "%.2f").Of(f.Ratio("points/ours/point/stall", "points/hand/point/stall")),
		show.Most("transfer-stall-vs-idle", 1.2, "%.2f").Of(f.Ratio("transfer/ours/stall", "transfer/idle/stall")),
		show.Most("merge-oldest-stall-vs-by-hand", 0.7, "%.2f").Of(f.Ratio("points/ours/oldest/stall", "points/hand/merge/stall")),
		show.Most("merge-newest-stall-vs-by-hand", 0.7, "%.2f").Of(f.Ratio("points/ours/newest/stall", "points/hand/merge/stall")),
		show.Most("point-time-1TiB-vs-1GiB", 1.2, "%.2f").Of(f.Ratio("points/ours/time-big", "points/ours/time-work")),
		show.Most("point-time-vs-by-hand", 2, "%.2f").Of(f.Median("points/ours/time-work") / byHand),
		show.Most("point-time-1TiB-vs-by-hand", 2, "%.2f").Of(f.Median("points/ours/time-big") / byHand),
		show.Least("writes-random-fresh-8-layers", 0.9, "%.2f").Of(f.Ratio("layers/eight/random-fresh", "layers/none/random-fresh")),
		show.Least("writes-random-again-8-layers", 0.9, "%.2f").Of(f.Ratio("layers/eight/random-again", "layers/none/random-again")),
		show.Least("writes-sequential-fresh-8-layers", 0.9, "%.2f").Of(f.Ratio("layers/eight/sequential-fresh", "layers/none/sequential-fresh")),
		show.Least("writes-sequential-again-8-layers", 0.9, "%.2f").Of(f.Ratio("layers/eight/sequential-again", "layers/none/sequential-again")),
		show.Most("kept-vs-changed", 1.2, "%.2f").Of(f.Ratio("layers/kept", "layers/changed")),
		show.Most("idle-1TiB-read-MiB", 1, "%.2f").Of(f.Worst("idle/read-big") / mib),
		show.Most("idle-1TiB-vs-1GiB", 1.5, "%.2f").Of(f.Ratio("idle/time-big", "idle/time-work")),
		show.Most("full-vs-virtnbdbackup", 0.5, "%.2f").Of(f.Ratio("virtnbd/ours-full/time", "virtnbd/theirs-full/time")),
		show.Most("increment-vs-virtnbdbackup", 0.5, "%.2f").Of(f.Ratio("virtnbd/ours-increment/time", "virtnbd/theirs-increment/time")),
		show.Most("full-stall-vs-virtnbdbackup", 1, "%.2f").Of(f.Ratio("virtnbd/ours-full/stall", "virtnbd/theirs-full/stall")),
		show.Most("increment-stall-vs-virtnbdbackup", 1, "%.2f").Of(f.Ratio("virtnbd/ours-increment/stall", "virtnbd/theirs-increment/stall")),
	}
}

// measured tells whether a figure is there.
func measured(v float64) bool { return !math.IsNaN(v) }
