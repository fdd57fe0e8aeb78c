package restore

import (
	"math"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Past is what one restore took that ended well.
type Past struct {
	Kind backstay.RestoreKind
	Tier backstay.Tier
	Live bool
	// Full is of a replace-disks: it wrote whole disks.
	Full bool
	// Streamed: it read the point from another host.
	Streamed bool
	// Bytes is what it was planned to write at most; Moving is how long that took,
	// Seconds all of it.
	Bytes   int64
	Moving  float64
	Seconds float64
}

// lately is how many restores an estimate looks at, and fewBytes is what one must
// have had to write to tell of the speed.
const (
	lately   = 10
	fewBytes = 1 << 20
)

// Estimate says how long a plan may take, in seconds, from the restores of the
// same sort on the same host, newest first. It is nil where there were none: a
// guess would be believed.
func Estimate(plan backstay.RestorePlan, past []Past) *int64 {
	var alike []Past
	for _, p := range past {
		if p.Kind == plan.Kind && p.Tier == plan.Tier && p.Live == plan.Live && p.Full == plan.Full && p.Streamed == (plan.StreamedFrom != "") && len(alike) < lately {
			alike = append(alike, p)
		}
	}
	if len(alike) == 0 {
		return nil
	}
	if plan.Bytes < fewBytes {
		return seconds(median(alike, func(p Past) float64 { return p.Seconds }))
	}
	var bytes, moving float64
	for _, p := range alike {
		if p.Bytes >= fewBytes {
			bytes, moving = bytes+float64(p.Bytes), moving+p.Moving
		}
	}
	if bytes == 0 {
		return nil // nothing tells of the speed
	}
	rest := median(alike, func(p Past) float64 { return p.Seconds - p.Moving })
	return seconds(rest + moving/bytes*float64(plan.Bytes))
}

func seconds(s float64) *int64 {
	n := max(int64(math.Ceil(s)), 1)
	return &n
}

func median(past []Past, of func(Past) float64) float64 {
	var values []float64
	for _, p := range past {
		values = append(values, of(p))
	}
	slices.Sort(values)
	middle := len(values) / 2
	if len(values)%2 == 0 {
		return (values[middle-1] + values[middle]) / 2
	}
	return values[middle]
}
