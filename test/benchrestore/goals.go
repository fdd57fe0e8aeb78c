package main

import "github.com/backstay/backstay/test/bench/show"

// figures are everything that was measured.
type figures struct{ *show.Figures }

func loadFigures(dir string) (*figures, error) {
	f, err := show.LoadFigures(dir)
	return &figures{f}, err
}

// goals are what the project wants of its restores.
func (f *figures) goals() []show.Goal {
	return []show.Goal{
		show.Most("create-1TiB-vs-1GiB", 1.3, "%.2f").Of(f.Ratio("create/ours-big", "create/ours-work")),
		show.Most("create-vs-define-and-start", 1.5, "%.2f").Of(f.Ratio("create/ours-work", "create/theirs-work")),
		show.Most("create-1TiB-vs-define-and-start", 1.5, "%.2f").Of(f.Ratio("create/ours-big", "create/theirs-big")),
		show.Most("replace-vs-start", 3, "%.2f").Of(f.Ratio("replace/ours-work", "replace/start-work")),
		show.Most("replace-1TiB-vs-start", 3, "%.2f").Of(f.Ratio("replace/ours-big", "replace/start-big")),
		show.Most("undo-vs-start", 3, "%.2f").Of(f.Ratio("replace/undo-work", "replace/start-work")),
		show.Most("undo-1TiB-vs-start", 3, "%.2f").Of(f.Ratio("replace/undo-big", "replace/start-big")),
		show.Most("live-agent-vs-local-boot", 1.3, "%.2f").Of(f.Ratio("live/ours", "live/local")),
		show.Least("disks-speed-vs-sparse-copy", 0.8, "%.2f").Of(f.Ratio("vault/copy", "vault/disks")),
		show.Most("replace-from-vault-vs-full", 0.125, "%.3f").Of(f.Ratio("vault/differences", "vault/full")),
		show.Most("replace-from-vault-written-vs-changed", 1.1, "%.2f").Of(f.Ratio("vault/differences-written", "vault/differences-changed")),
	}
}
