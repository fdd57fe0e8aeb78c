package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"math"
	"os"
	"path/filepath"
	"slices"
)

// figures are everything that was measured: each name has one value for each
// repetition. They are kept on disk after each, so that sections can be measured
// one by one.
type figures struct {
	Machine map[string]string
	Series  map[string][]float64
	path    string
}

func loadFigures(dir string) (*figures, error) {
	f := &figures{Machine: map[string]string{}, Series: map[string][]float64{}, path: filepath.Join(dir, "figures.json")}
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

func (f *figures) add(name string, value float64) error {
	f.Series[name] = append(f.Series[name], value)
	return f.save()
}

func (f *figures) save() error {
	data, err := json.MarshalIndent(f, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(f.path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(f.path+".new", f.path)
}

// median of a series; NaN if it was not measured.
func (f *figures) median(name string) float64 {
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

// worst of a series; NaN if it was not measured.
func (f *figures) worst(name string) float64 {
	if len(f.Series[name]) == 0 {
		return math.NaN()
	}
	return slices.Max(f.Series[name])
}

// ratio of two medians.
func (f *figures) ratio(a, b string) float64 { return f.median(a) / f.median(b) }
