package show

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

// Bar is one bar of a chart; Own ones are the project's.
type Bar struct {
	Title string
	Value float64
	Own   bool
}

// Group is some bars that are compared.
type Group struct {
	Title  string
	Format string // of the values; "" means %.1f
	Bars   []Bar
}

// Chart draws groups of bars as SVG: the project's own in one colour, all others in
// another. It stands on its own background, so that it can be read in the dark too.
// Groups without bars are left out.
func Chart(title string, groups []Group) string {
	var body strings.Builder
	y := 16
	for _, g := range groups {
		if len(g.Bars) == 0 {
			continue
		}
		if g.Format == "" {
			g.Format = "%.1f"
		}
		fmt.Fprintf(&body, `<text x="12" y="%d" font-weight="bold">%s</text>`+"\n", y+12, g.Title)
		y += 24
		longest := 0.0
		for _, b := range g.Bars {
			longest = max(longest, b.Value)
		}
		for _, b := range g.Bars {
			width := max(2, b.Value/longest*(chartWidth-labelWidth-80))
			colour := "#8a949e"
			if b.Own {
				colour = "#1565a0"
			}
			fmt.Fprintf(&body, `<text x="%d" y="%d" text-anchor="end">%s</text>`+"\n", labelWidth-8, y+barHeight-4, b.Title)
			fmt.Fprintf(&body, `<rect x="%d" y="%d" width="%.1f" height="%d" rx="2" fill="%s"/>`+"\n", labelWidth, y, width, barHeight, colour)
			fmt.Fprintf(&body, `<text x="%.1f" y="%d">`+g.Format+"</text>\n", labelWidth+width+6, y+barHeight-4, b.Value)
			y += barHeight + barGap
		}
		y += groupGap - barGap
	}
	return fmt.Sprintf(`<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 %d %d" width="%d" height="%d" role="img" font-family="sans-serif" font-size="12" fill="#1b1f24">
<title>%s</title>
<rect width="100%%" height="100%%" fill="#ffffff"/>
%s</svg>
`, chartWidth, y, chartWidth, y, title, body.String())
}
