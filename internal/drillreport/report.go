// Package drillreport draws the record of a drill as one HTML page that needs nothing
// else: style, pictures and the timeline are in it, and no script.
//
// What guests said is in the record; it is text here, whatever it looks like.
package drillreport

import (
	_ "embed"
	"encoding/base64"
	"fmt"
	"html/template"
	"io"
	"math"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

//go:embed report.html
var page string

var report = template.Must(template.New("report").Funcs(template.FuncMap{
	"when":    func(t time.Time) string { return t.UTC().Format("2006-01-02 15:04:05 UTC") },
	"seconds": seconds,
	"size":    size,
	"picture": picture,
	"check":   check,
}).Parse(page))

// Write writes the report of a drill.
func Write(w io.Writer, r backstay.DrillRecord) error {
	digest, err := r.Digest()
	if err != nil {
		return err
	}
	err = report.Execute(w, struct {
		backstay.DrillRecord
		Sound bool
		Line  timeline
	}{r, digest == r.Hash, newTimeline(r)})
	if err != nil {
		return fmt.Errorf("write the report of drill %s: %w", r.ID, err)
	}
	return nil
}

func check(ok bool) string {
	if ok {
		return "✓"
	}
	return "✗"
}

// seconds writes a time for people.
func seconds(s *float64) string {
	if s == nil {
		return "–"
	}
	d := time.Duration(*s * float64(time.Second))
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%.1f s", *s)
	case d < time.Hour:
		return fmt.Sprintf("%d min %d s", int(d.Minutes()), int(d.Seconds())%60)
	case d < 48*time.Hour:
		return fmt.Sprintf("%d h %d min", int(d.Hours()), int(d.Minutes())%60)
	}
	return fmt.Sprintf("%.1f days", d.Hours()/24)
}

func size(n int64) string {
	switch {
	case n >= 1<<30:
		return fmt.Sprintf("%.1f GiB", float64(n)/(1<<30))
	case n >= 1<<20:
		return fmt.Sprintf("%.0f MiB", float64(n)/(1<<20))
	}
	return fmt.Sprintf("%d B", n)
}

// picture is a PNG as it stands in a page; nothing if it is none.
func picture(png []byte) template.URL {
	if !strings.HasPrefix(string(png), "\x89PNG") {
		return ""
	}
	return template.URL("data:image/png;base64," + base64.StdEncoding.EncodeToString(png)) //nolint:gosec // base64, and of no other kind
}

// timeline is what was done when, to be drawn.
type timeline struct {
	Width, Height int
	Bars          []bar
	Ticks         []tick
}

type bar struct {
	X, Y, Width, TextX  int
	Label, Class, Title string
}

type tick struct {
	X    int
	Text string
}

const (
	lineLeft, lineWidth, lineRow = 230, 700, 24
	ticks                        = 6
)

func newTimeline(r backstay.DrillRecord) timeline {
	total := r.Ended.Sub(r.Started).Seconds()
	if total <= 0 || len(r.Steps) == 0 {
		return timeline{}
	}
	at := func(t time.Time) int {
		share := min(max(t.Sub(r.Started).Seconds()/total, 0), 1)
		return lineLeft + int(math.Round(share*lineWidth))
	}
	l := timeline{Width: lineLeft + lineWidth + 60, Height: lineRow*len(r.Steps) + 34}
	for i, s := range r.Steps {
		name, class := s.Name, s.Name
		if s.VM != "" {
			name = s.VM + " · " + s.Name
		}
		if !s.OK {
			class = "bad"
		}
		x := at(s.Began)
		took := s.Ended.Sub(s.Began).Seconds()
		l.Bars = append(l.Bars, bar{X: x, Y: 6 + i*lineRow, Width: max(2, at(s.Ended)-x), Label: shortened(name), Class: class,
			Title: fmt.Sprintf("%s: %s", name, seconds(&took))})
	}
	for i := range ticks + 1 {
		after := total * float64(i) / ticks
		l.Ticks = append(l.Ticks, tick{lineLeft + lineWidth*i/ticks, seconds(&after)})
	}
	return l
}

func shortened(name string) string {
	const most = 34
	if runes := []rune(name); len(runes) > most {
		return string(runes[:most-1]) + "…"
	}
	return name
}
