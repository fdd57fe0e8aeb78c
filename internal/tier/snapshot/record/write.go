package record

import (
	"fmt"
	"path/filepath"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Put writes a layer's record.
func (b *Book) Put(l *Layer) error {
	l.Version = Version
	b.Layers[l.ID] = l
	return WriteJSON(layerFile(l), l)
}

// PutPoint writes a point's record: where it was, or beside its first disk.
func (b *Book) PutPoint(p *Point) error {
	p.Version = Version
	path := b.PointFiles[p.ID]
	if path == "" {
		first := b.Layers[p.firstLayer()]
		if first == nil {
			return fmt.Errorf("write point %s: the record of its first layer is missing", p.ID)
		}
		path = filepath.Join(first.RecordFolder(), Folder, pointFolder, string(p.ID)+".json")
		b.PointFiles[p.ID] = path
	}
	b.Points[p.ID] = p
	return WriteJSON(path, p)
}

// RemovePoint takes a point out of its layers' records and removes its own.
func (b *Book) RemovePoint(p *Point) error {
	for _, d := range p.Disks {
		l := b.Layers[d.Layer]
		if l == nil || !slices.Contains(l.Points, p.ID) {
			continue
		}
		l.Points = Without(l.Points, p.ID)
		if err := b.Put(l); err != nil {
			return err
		}
	}
	delete(b.Points, p.ID)
	return RemoveFile(b.PointFiles[p.ID])
}

// RemoveLayer removes a layer's record, not its file. The last one takes the
// reserve of its folder with it.
func (b *Book) RemoveLayer(l *Layer) error {
	delete(b.Layers, l.ID)
	if err := RemoveFile(layerFile(l)); err != nil {
		return err
	}
	if left, err := listJSON(filepath.Dir(layerFile(l))); err != nil || len(left) > 0 {
		return err
	}
	return RemoveFile(filepath.Join(l.RecordFolder(), Folder, ReserveName))
}

func (p *Point) firstLayer() backstay.LayerID {
	for _, d := range p.Disks {
		if d.Layer != "" {
			return d.Layer
		}
	}
	return ""
}

// LayerOf returns the layer that holds a disk of the point, or "".
func (p *Point) LayerOf(target backstay.DiskTarget) backstay.LayerID {
	for _, d := range p.Disks {
		if d.Target == target {
			return d.Layer
		}
	}
	return ""
}

// Write writes the journal.
func (in *Intent) Write() error {
	in.Version = Version
	return WriteJSON(in.Path, in)
}

// Write writes the journal.
func (m *Merge) Write() error {
	m.Version = Version
	return WriteJSON(m.Path, m)
}

// Intent returns the journal of a point in the making, or nil.
func (b *Book) Intent(p backstay.PointID) *Intent {
	for _, in := range b.Intents {
		if in.ID == p {
			return in
		}
	}
	return nil
}

// Without returns the list less one value.
func Without[T comparable](list []T, gone T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return v == gone })
}
