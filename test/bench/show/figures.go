package show

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
	"strings"
)

// Figures are everything that a benchmark measured: each name has one value for
// each repetition. They are kept on disk after each, so that sections can be
// measured one by one.
type Figures struct {
	Machine map[string]string
	Series  map[string][]float64
	path    string
}

// LoadFigures returns those of earlier runs in a folder, which is made; none is no
// error.
func LoadFigures(dir string) (*Figures, error) {
	f := &Figures{Machine: map[string]string{}, Series: map[string][]float64{}, path: filepath.Join(dir, "figures.json")}
	if err := os.MkdirAll(dir, 0o755); err != nil {
		return nil, err
	}
	data, err := os.ReadFile(f.path)
	if errors.Is(err, fs.ErrNotExist) {
		return f, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, f); err != nil {
		return nil, fmt.Errorf("read %s: %w", f.path, err)
	}
	return f, nil
}

// Add keeps the value of one repetition.
func (f *Figures) Add(name string, value float64) error {
	f.Series[name] = append(f.Series[name], value)
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(f.path+".new", f.path)
}

// Forget drops all series of a section, whose names begin with its own and a slash.
func (f *Figures) Forget(section string) {
	for name := range f.Series {
		if strings.HasPrefix(name, section+"/") {
			delete(f.Series, name)
		}
	}
}

// Median of a series; NaN if it was not measured.
func (f *Figures) Median(name string) float64 {
	s := slices.Sorted(slices.Values(f.Series[name]))
	switch n := len(s); {
	case n == 0:
		return math.NaN()
	case n%2 == 1:
		return s[n/2]
	default:
		return (s[n/2-1] + s[n/2]) / 2
	}
}

// Worst is the largest of a series; NaN if it was not measured.
func (f *Figures) Worst(name string) float64 {
	if len(f.Series[name]) == 0 {
		return math.NaN()
	}
	return slices.Max(f.Series[name])
}

// Ratio of two medians.
func (f *Figures) Ratio(a, b string) float64 { return f.Median(a) / f.Median(b) }

// Context is the line of a page that says where and of what the figures are.
func (f *Figures) Context() string {
	m := f.Machine
	var names []string
	for k := range m {
		if name, ok := strings.CutPrefix(k, "version "); ok {
			names = append(names, name+" "+m[k])
		}
	}
	slices.Sort(names)
	return fmt.Sprintf("Commit %s, %s. Machine: %s, %s cores, %s, Linux %s, %s; guests without KVM. %s.",
		m["commit"], m["date"], m["cpu"], m["cores"], m["memory"], m["kernel"], m["go"], strings.Join(names, "; "))
}

// WritePage writes text between two marks of a Markdown file, and leaves what
// stands before and after them, which is by hand. A file that is not there is made
// with the head.
func WritePage(path, head, begin, end, text string) error {
	old, err := os.ReadFile(path)
	if errors.Is(err, fs.ErrNotExist) {
		old, err = []byte(head+begin+end), nil
	}
	if err != nil {
		return err
	}
	before, rest, found := strings.Cut(string(old), begin)
	_, after, ended := strings.Cut(rest, end)
	if !found || !ended {
		return fmt.Errorf("write %s: it does not have the lines %q and %q", path, strings.TrimSpace(begin), strings.TrimSpace(end))
	}
	return os.WriteFile(path, []byte(before+begin+text+end+after), 0o644)
}
