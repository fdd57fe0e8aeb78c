package main

import "github.com/backstay/backstay/test/bench/show"

// figures are everything that was measured.
type figures struct{ *show.Figures }

func loadFigures(dir string) (*figures, error) {
	f, err := show.LoadFigures(dir)
	return &figures{f}, err
}
