package record

import (
	"errors"
	"fmt"
	"io/fs"
	"path/filepath"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Book is all records of the host at one instant. Its methods that write may
// only be called in Store.Change.
type Book struct {
	Layers  map[backstay.LayerID]*Layer
	Points  map[backstay.PointID]*Point
	Intents []*Intent
	Merges  []*Merge
	Copies  []*Copy
	// PointFiles is where each record was read; a new one goes beside its file.
	PointFiles map[backstay.PointID]string
	store      *Store
}

func (b *Book) readFolder(folder string) error {
	at := filepath.Join(folder, Folder)
	// Somebody may have copied the folder with the disks in it: then it also says
	// what was, of files that are not here.
	foreign := map[backstay.LayerID]bool{}
	err := eachRecord(filepath.Join(at, layerFolder), func(_ string, l *Layer) {
		if l.strays(folder) {
			foreign[l.ID] = true
			return
		}
		b.Layers[l.ID] = l
	})
	if err != nil {
		return err
	}
	err = eachRecord(filepath.Join(at, pointFolder), func(path string, p *Point) {
		if slices.ContainsFunc(p.Disks, func(d Disk) bool { return foreign[d.Layer] }) && !b.isHome(p, folder) {
			return
		}
		b.Points[p.ID], b.PointFiles[p.ID] = p, path
	})
	if err != nil {
		return err
	}
	return b.readIntents(filepath.Join(at, intentFolder), foreign)
}

// isHome tells whether a layer of a point lies in the folder.
func (b *Book) isHome(p *Point, folder string) bool {
	return slices.ContainsFunc(p.Disks, func(d Disk) bool {
		l := b.Layers[d.Layer]
		return l != nil && !l.strays(folder)
	})
}

// strays tells whether a layer's record was found where it does not lie.
func (l *Layer) strays(folder string) bool {
	own := l.RecordFolder()
	return own != folder && !SameFile(own, folder)
}

func eachRecord[T any](folder string, fn func(path string, v *T)) error {
	paths, err := listJSON(folder)
	if err != nil {
		return err
	}
	for _, path := range paths {
		v := new(T)
		err := ReadJSON(path, v)
		if errors.Is(err, fs.ErrNotExist) {
			continue
		}
		if err != nil {
			return err
		}
		fn(path, v)
	}
	return nil
}

// layerFile is the path of a layer's record, beside the layer.
func layerFile(l *Layer) string {
	return filepath.Join(l.RecordFolder(), Folder, layerFolder, string(l.ID)+".json")
}

// ByFile returns the layer that is recorded for a file, or nil.
func (b *Book) ByFile(path string) *Layer {
	for _, l := range b.Layers {
		if l.File == path {
			return l
		}
	}
	return nil
}

// Children returns the layers directly above, in order of id.
func (b *Book) Children(id backstay.LayerID) []*Layer {
	var found []*Layer
	for _, l := range b.Layers {
		if l.Parent == id {
			found = append(found, l)
		}
	}
	slices.SortFunc(found, func(a, b *Layer) int {
		if a.ID < b.ID {
			return -1
		}
		return 1
	})
	return found
}

// Chain returns the layer and those below it, as far as they are recorded.
func (b *Book) Chain(id backstay.LayerID) []Layer {
	var chain []Layer
	for seen := map[backstay.LayerID]bool{}; id != "" && !seen[id]; {
		l := b.Layers[id]
		if l == nil {
			break
		}
		seen[id] = true
		chain = append(chain, *l)
		id = l.Parent
	}
	return chain
}

// ParentOf finds the point whose layers lie nearest below those of p.
func (b *Book) ParentOf(p *Point) backstay.PointID {
	for _, d := range p.Disks {
		if d.Layer == "" {
			continue
		}
		chain := b.Chain(d.Layer)
		for _, l := range chain[min(1, len(chain)):] {
			for _, id := range slices.Backward(l.Points) {
				below := b.Points[id]
				if below != nil && (below.State == PointAvailable || below.State == PointMap) && below.VM.UUID == p.VM.UUID {
					return id
				}
			}
		}
	}
	return ""
}

// Unusable says why a point cannot be read, or "" if it can.
func (b *Book) Unusable(p *Point) string {
	switch p.State {
	case PointAvailable:
	case PointMap:
		return "it has left the snapshot tier; only its change map is kept"
	case PointDropping:
		return "it is being dropped"
	default:
		return p.StateReason
	}
	return b.Damage(p)
}

// Damage says what of a point's layers is missing or not what it was, or "".
func (b *Book) Damage(p *Point) string {
	for _, d := range p.Disks {
		if d.Layer == "" {
			continue
		}
		if why := b.brokenChain(p.ID, d.Layer); why != "" {
			return fmt.Sprintf("disk %s: %s", d.Target, why)
		}
	}
	return ""
}

// brokenChain says what is missing of the layers from id down.
func (b *Book) brokenChain(p backstay.PointID, id backstay.LayerID) string {
	chain := b.Chain(id)
	if len(chain) == 0 {
		return "the record of its layer is missing"
	}
	if !slices.Contains(chain[0].Points, p) {
		return "its layer is not recorded as holding it"
	}
	if last := chain[len(chain)-1]; last.Parent != "" {
		return fmt.Sprintf("the record of layer %s is missing", last.Parent)
	}
	for _, l := range chain {
		if err := l.There(); err != nil {
			return fmt.Sprintf("layer file %s cannot be used: %v", l.File, err)
		}
		if l.Rewritten() && !b.merging(&l) {
			return fmt.Sprintf("layer file %s was modified after it was frozen, not by backstay", l.File)
		}
	}
	return ""
}

// merging tells whether a merge that is under way may write to a layer: content
// that the layers above hide, or the name of the file below.
func (b *Book) merging(l *Layer) bool {
	return slices.ContainsFunc(b.Merges, func(m *Merge) bool {
		return l.ID == m.Into || l.ID == m.Child || l.Parent == m.Child
	})
}
