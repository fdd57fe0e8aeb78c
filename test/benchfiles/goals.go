package main

import "github.com/backstay/backstay/test/bench/show"

// figures are everything that was measured.
type figures struct{ *show.Figures }

func loadFigures(dir string) (*figures, error) {
	f, err := show.LoadFigures(dir)
	return &figures{f}, err
}

// goals are what the project wants of item-level restore.
func (f *figures) goals() []show.Goal {
	return []show.Goal{
		show.Most("first-listing-cold-vs-libguestfs", 0.4, "%.2f").Of(f.Ratio("list/cold", "list/libguestfs")),
		show.Most("first-listing-pool-vs-libguestfs", 0.05, "%.3f").Of(f.Ratio("list/pool", "list/libguestfs")),
		show.Most("vault-MiB-for-a-folder-and-1MiB", 32, "%.1f").Of(f.Median("small/bytes") / mib),
		show.Most("small-file-vs-whole-restore-time", 0.1, "%.3f").Of(f.Ratio("small/seconds", "small/whole-seconds")),
		show.Most("small-file-vs-whole-restore-bytes", 0.1, "%.3f").Of(f.Ratio("small/bytes", "small/whole-bytes")),
		show.Least("large-file-speed-vs-libguestfs", 2, "%.2f").Of(f.Ratio("large/libguestfs", "large/ours")),
		show.Least("tar-speed-vs-libguestfs", 2, "%.2f").Of(f.Ratio("tar/libguestfs", "tar/ours")),
		show.Most("index-next-vs-first", 0.1, "%.3f").Of(f.Ratio("index/next", "index/first")),
		show.Most("search-all-points-vs-one", 2, "%.2f").Of(f.Ratio("index/search-all", "index/search-one")),
	}
}
