package snapshot

import (
	"context"
	"errors"
	"io/fs"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Place says of a point in which folders the disks were that it is of.
type Place struct {
	Point   backstay.PointID
	Folders []string
}

// Lost returns those of the points that cannot be read any more, with the
// reason. A point is only lost if its folders could be looked into and do not
// hold it: of what could not be seen nothing is said (I5, I6).
func (t *Tier) Lost(ctx context.Context, places []Place) (map[backstay.PointID]string, error) {
	if err := t.lookAround(ctx); err != nil && !errors.Is(err, hypervisor.ErrAway) {
		return nil, err
	}
	var folders []string
	for _, place := range places {
		folders = append(folders, place.Folders...)
	}
	if err := t.records.Discover(folders); err != nil { // also those of VMs that are gone
		return nil, err
	}
	b, err := t.load()
	if err != nil {
		return nil, err
	}
	lost := map[backstay.PointID]string{}
	for _, place := range places {
		if why := b.lost(place); why != "" {
			lost[place.Point] = why
		}
	}
	return lost, nil
}

// lost says why a point is surely lost, or "".
func (b *book) lost(place Place) string {
	p := b.Points[place.Point]
	if p == nil {
		if len(place.Folders) == 0 {
			return ""
		}
		for _, folder := range place.Folders {
			// A file system that is not mounted has no folder of records.
			if st, err := os.Stat(filepath.Join(folder, record.Folder)); err != nil || !st.IsDir() {
				return ""
			}
		}
		return "there is no record of it beside the disks"
	}
	why := b.Unusable(p)
	if why == "" {
		return ""
	}
	if p.State != record.PointAvailable {
		return why
	}
	for _, d := range p.Disks {
		for _, l := range b.Chain(d.Layer) {
			// Its record lies beside it and was read, so its folder is there.
			if err := l.There(); errors.Is(err, fs.ErrNotExist) || err == nil && l.Rewritten() {
				return why
			}
		}
	}
	return ""
}
