package main

import (
	"fmt"
	"strings"
)

// The chart's measures, in pixels.
const (
	chartWidth = 760
	labelWidth = 250
	barHeight  = 16
	barGap     = 6
	groupGap   = 34
)

// bar is one bar of the chart.
type bar struct {
	title string
	value float64
	own   bool
}

// chart draws first backup, second backup and restore as bars: backstay in one
// colour, all others in another. It stands on its own background, so that it can be
// read in the dark too.
func (r *results) chart() string {
	var body strings.Builder
	y := 16
	for _, group := range []struct{ step, title string }{{"first", "first backup"}, {"second", "second backup, after the change"}, {"restore", "restore of the newest point"}} {
		bars := r.bars(group.step)
		if len(bars) == 0 {
			continue
		}
		fmt.Fprintf(&body, `<text x="12" y="%d" font-weight="bold">%s, seconds</text>`+"\n", y+12, group.title)
		y += 24
		longest := 0.0
		for _, b := range bars {
			longest = max(longest, b.value)
		}
		for _, b := range bars {
			width := max(2, b.value/longest*(chartWidth-labelWidth-80))
			colour := "#8a949e"
			if b.own {
				colour = "#1565a0"
			}
			fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-8, y+barHeight-4, b.title)
			fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", labelWidth, y, width, barHeight, colour)
			fmt.Fprintf(&body, `<text x="%.1f" y="%d">%.1f</text>`+"\n", labelWidth+width+6, y+barHeight-4, b.value)
			y += barHeight + barGap
		}
		y += groupGap - barGap
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="sans-serif" font-size="12" fill="#1b1f24">
<title>Backups and restores, in seconds</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, chartWidth, y, chartWidth, y, body.String())
}

func (r *results) bars(step string) []bar {
	var bars []bar
	for _, s := range rows {
		if f := r.get(s.name + "/" + step); f.Wall > 0 {
			bars = append(bars, bar{title: s.title, value: f.Wall, own: s.name == "backstay" || s.name == "three"})
		}
		if n := r.get("backstay/second-nomap"); s.name == "backstay" && step == "second" && n.Wall > 0 {
			bars = append(bars, bar{title: "backstay, without a change map", value: n.Wall, own: true})
		}
	}
	return bars
}
