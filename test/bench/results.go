package main

import (
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// figure is what one measured process cost, and what it said of itself.
type figure struct {
	Wall float64 `json:"wall"` // seconds, the sync at the end included
	CPU  float64 `json:"cpu"`  // seconds, user and system
	RSS  int64   `json:"rss"`  // peak, in bytes
	// Stored is what is in the repository afterwards, Added what came, in bytes.
	Stored int64 `json:"stored,omitempty"`
	Added  int64 `json:"added,omitempty"`
	// Said are the worker's own figures: requests, bytes, rates.
	Said map[string]float64 `json:"said,omitempty"`
	Note string             `json:"note,omitempty"`
}

// results are all figures of a folder, by subject and step ("restic/first"). They
// are saved after each measurement, so that a run can be taken up again.
type results struct {
	path    string
	Machine map[string]string `json:"machine"`
	Figures map[string]figure `json:"figures"`
}

func loadResults(dir string) (*results, error) {
	r := &results{path: filepath.Join(dir, "results.json"), Machine: map[string]string{}, Figures: map[string]figure{}}
	data, err := os.ReadFile(r.path)
	if errors.Is(err, fs.ErrNotExist) {
		return r, nil
	}
	if err != nil {
		return nil, err
	}
	if err := json.Unmarshal(data, r); err != nil {
		return nil, fmt.Errorf("read %s: %w", r.path, err)
	}
	return r, nil
}

func (r *results) save() error {
	data, err := json.MarshalIndent(r, "", "  ")
	if err != nil {
		return err
	}
	if err := os.WriteFile(r.path+".new", data, 0o644); err != nil {
		return err
	}
	return os.Rename(r.path+".new", r.path)
}

// put records a figure. Of several rounds the faster one stays, with the larger
// peak of memory.
func (r *results) put(name string, f figure, again bool) error {
	if old, ok := r.Figures[name]; ok && again {
		rss := max(old.RSS, f.RSS)
		if old.Wall < f.Wall {
			f = old
		}
		f.RSS = rss
	}
	r.Figures[name] = f
	return r.save()
}

// get returns a figure, or zeros if it was not measured.
func (r *results) get(name string) figure { return r.Figures[name] }
