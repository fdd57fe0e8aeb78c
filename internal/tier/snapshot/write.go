package snapshot

import (
	"context"
	"crypto/rand"
	"fmt"
	"os"
	"path/filepath"
	"slices"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
)

// change reads all records and lets fn change and write them, while nobody
// else does.
func (t *Tier) change(fn func(b *book) error) error {
	t.mu.Lock()
	defer t.mu.Unlock()
	b, err := t.read()
	if err != nil {
		return err
	}
	return fn(b)
}

// put writes a layer's record.
func (b *book) put(l *Layer) error {
	l.Version = Version
	b.layers[l.ID] = l
	return writeJSON(layerFile(l), l)
}

// putPoint writes a point's record: where it was, or beside its first disk.
func (b *book) putPoint(p *PointRecord) error {
	p.Version = Version
	path := b.pointFiles[p.ID]
	if path == "" {
		first := b.layers[p.firstLayer()]
		if first == nil {
			return fmt.Errorf("write point %s: the record of its first layer is missing", p.ID)
		}
		path = filepath.Join(filepath.Dir(first.File), recordFolder, pointFolder, string(p.ID)+".json")
		b.pointFiles[p.ID] = path
	}
	b.points[p.ID] = p
	return writeJSON(path, p)
}

// removePoint takes a point out of its layers' records and removes its own.
func (b *book) removePoint(p *PointRecord) error {
	for _, d := range p.Disks {
		l := b.layers[d.Layer]
		if l == nil || !slices.Contains(l.Points, p.ID) {
			continue
		}
		l.Points = without(l.Points, p.ID)
		if err := b.put(l); err != nil {
			return err
		}
	}
	delete(b.points, p.ID)
	return removeFile(b.pointFiles[p.ID])
}

// removeLayer removes a layer's record, not its file. The last one takes the
// reserve of its folder with it.
func (b *book) removeLayer(l *Layer) error {
	delete(b.layers, l.ID)
	if err := removeFile(layerFile(l)); err != nil {
		return err
	}
	if left, err := listJSON(filepath.Dir(layerFile(l))); err != nil || len(left) > 0 {
		return err
	}
	return removeFile(filepath.Join(filepath.Dir(l.File), recordFolder, reserveName))
}

func (p *PointRecord) firstLayer() backstay.LayerID {
	for _, d := range p.Disks {
		if d.Layer != "" {
			return d.Layer
		}
	}
	return ""
}

// layerOf returns the layer that holds a disk of the point, or "".
func (p *PointRecord) layerOf(target backstay.DiskTarget) backstay.LayerID {
	for _, d := range p.Disks {
		if d.Target == target {
			return d.Layer
		}
	}
	return ""
}

func (in *intent) write() error {
	in.Version = Version
	return writeJSON(in.path, in)
}

func (m *mergeIntent) write() error {
	m.Version = Version
	return writeJSON(m.path, m)
}

func (b *book) intent(p backstay.PointID) *intent {
	for _, in := range b.intents {
		if in.ID == p {
			return in
		}
	}
	return nil
}

// stampOf describes a file as it is now.
func stampOf(path string) (*Stamp, error) {
	info, err := os.Stat(path)
	if err != nil {
		return nil, fmt.Errorf("look at layer: %w", err)
	}
	return &Stamp{Bytes: info.Size(), ModTime: info.ModTime().UTC()}, nil
}

// intact tells whether a frozen layer's file is as we last saw it.
func (l *Layer) intact() bool { return l.Stamp.is(l.File) }

// rewritten tells whether a frozen layer's file was written to since we last saw
// it: its points are not what they were. A file that looks older than the stamp
// is not, since a power loss can take a time back that was never made durable.
func (l *Layer) rewritten() bool {
	if l.Stamp == nil {
		return false
	}
	now, err := stampOf(l.File)
	return err == nil && (now.Bytes != l.Stamp.Bytes || now.ModTime.After(l.Stamp.ModTime))
}

// is tells whether a file is in the state that the stamp describes.
func (s *Stamp) is(path string) bool {
	now, err := stampOf(path)
	return err == nil && s != nil && now.Bytes == s.Bytes && now.ModTime.Equal(s.ModTime)
}

func (t *Tier) newLayerID() (backstay.LayerID, error) {
	id, err := ulid.New(ulid.Timestamp(t.now()), rand.Reader)
	if err != nil {
		return "", fmt.Errorf("make layer id: %w", err)
	}
	return backstay.LayerID(id.String()), nil
}

func without[T comparable](list []T, gone T) []T {
	return slices.DeleteFunc(slices.Clone(list), func(v T) bool { return v == gone })
}

// steady returns a context that goes on when ctx is cancelled: for what must
// not stop half-way.
func steady(ctx context.Context) context.Context { return context.WithoutCancel(ctx) }
