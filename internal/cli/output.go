package cli

import (
	"encoding/json"
	"fmt"
	"io"
	"slices"
	"strings"
	"text/tabwriter"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/goccy/go-yaml"
)

// emit prints v as the user wants it: as JSON or YAML, or by table.
func (a *app) emit(v any, table func(w io.Writer)) error {
	switch a.output {
	case "json", "yaml":
		data, err := encode(v, a.output)
		if err != nil {
			return err
		}
		_, err = a.Stdout.Write(data)
		return err
	}
	w := tabwriter.NewWriter(a.Stdout, 0, 4, 2, ' ', 0)
	table(w)
	return w.Flush()
}

func encode(v any, form string) ([]byte, error) {
	var b strings.Builder
	e := json.NewEncoder(&b)
	e.SetEscapeHTML(false)
	e.SetIndent("", "  ")
	if err := e.Encode(v); err != nil {
		return nil, fmt.Errorf("encode the output: %w", err)
	}
	if form == "yaml" {
		data, err := yaml.JSONToYAML([]byte(b.String()))
		if err != nil {
			return nil, fmt.Errorf("encode the output: %w", err)
		}
		return data, nil
	}
	return []byte(b.String()), nil
}

// printError prints an error as three lines, or as JSON or YAML; on stderr in
// any case, so that stdout holds results alone.
func (a *app) printError(e *backstay.Error, args []string) {
	form := a.output
	if !a.began {
		form = outputOf(args, form) // the parser may have stopped before -o
	}
	if form == "json" || form == "yaml" {
		shown := *e
		shown.Kind = ""
		if data, err := encode(api.ErrorResponse{Error: shown}, form); err == nil {
			a.Stderr.Write(data)
			return
		}
	}
	cause := e.Cause
	if cause == "" {
		cause = "not known"
	}
	fmt.Fprintf(a.Stderr, "error: %s: %s\ncause: %s\naction: %s\n", e.Code, oneLine(e.Message), oneLine(cause), oneLine(e.Action))
}

// outputOf finds -o in arguments that were not understood as a whole.
func outputOf(args []string, otherwise string) string {
	for i, arg := range args {
		if (arg == "-o" || arg == "--output") && i+1 < len(args) {
			return args[i+1]
		}
		for _, prefix := range []string{"-o=", "--output=", "-o"} {
			if value, ok := strings.CutPrefix(arg, prefix); ok && (value == "json" || value == "yaml") {
				return value
			}
		}
	}
	return otherwise
}

func oneLine(s string) string {
	return strings.Join(slices.Collect(func(yield func(string) bool) {
		for line := range strings.Lines(s) {
			if line = strings.TrimSpace(line); line != "" && !yield(line) {
				return
			}
		}
	}), "; ")
}

// note tells people something that is no result.
func (a *app) note(format string, args ...any) { fmt.Fprintf(a.Stderr, format+"\n", args...) }

func row(w io.Writer, cells ...any) {
	for i, c := range cells {
		if i > 0 {
			io.WriteString(w, "\t")
		}
		text := fmt.Sprint(c)
		if text == "" && len(cells) > 1 {
			text = "-"
		}
		io.WriteString(w, text)
	}
	io.WriteString(w, "\n")
}

// size writes bytes for people, in units of 1024.
func size(n int64) string {
	const steps = "KMGTPE"
	if n < 1024 {
		return fmt.Sprintf("%d B", n)
	}
	value, step := float64(n)/1024, 0
	for value >= 1023.95 && step < len(steps)-1 {
		value, step = value/1024, step+1
	}
	return fmt.Sprintf("%.1f %ciB", value, steps[step])
}

// span writes a duration for people, in its two largest units.
func span(d time.Duration) string {
	d = d.Round(time.Second)
	switch {
	case d < time.Minute:
		return fmt.Sprintf("%d s", d/time.Second)
	case d < time.Hour:
		return pair(d/time.Minute, "min", d%time.Minute/time.Second, "s")
	case d < 24*time.Hour:
		return pair(d/time.Hour, "h", d%time.Hour/time.Minute, "min")
	}
	return pair(d/(24*time.Hour), "d", d%(24*time.Hour)/time.Hour, "h")
}

func pair(n time.Duration, unit string, m time.Duration, smaller string) string {
	if m == 0 {
		return fmt.Sprintf("%d %s", n, unit)
	}
	return fmt.Sprintf("%d %s %d %s", n, unit, m, smaller)
}

// when writes a time for people: local, and how long ago.
func (a *app) when(t time.Time) string {
	if t.IsZero() {
		return ""
	}
	local := t.Local().Format("2006-01-02 15:04:05")
	ago := a.Now().Sub(t)
	switch {
	case ago > -time.Second && ago < time.Second:
		return local + " (now)"
	case ago < 0:
		return local + " (in " + span(-ago) + ")"
	}
	return local + " (" + span(ago) + " ago)"
}

func (a *app) whenPtr(t *time.Time) string {
	if t == nil {
		return ""
	}
	return a.when(*t)
}

func vmLabel(ref backstay.VMRef) string { return string(ref.Host) + "/" + ref.Name }
