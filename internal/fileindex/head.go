package fileindex

import (
	"encoding/json"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
)

// Head says of what the list of one VM consists.
type Head struct {
	Version int     `json:"version"` // 1
	Points  []Point `json:"points"`  // that are in the list, oldest first
	Layers  []Layer `json:"layers"`  // oldest first
}

// Point is a point that is in the list.
type Point struct {
	ID backstay.PointID `json:"id"`
	// Volumes are those whose files were listed, in order. Of every other volume nothing
	// is known in this point.
	Volumes []Volume `json:"volumes"`
	Files   int64    `json:"files"` // entries
}

// Volume is a volume of a point whose files were listed.
type Volume struct {
	ID backstay.VolumeID `json:"id"`
	// Mount is where the guest mounts it; "" if it does not say.
	Mount backstay.FilePath `json:"mount,omitempty"`
	// Newest is the last change of an inode of it, in nanoseconds since 1970.
	Newest int64 `json:"newest"`
	// System says which file system it is, if all of it was listed and the next point can
	// be listed by its inodes as long as it is the same; else "". See Inodes.
	System string `json:"system,omitempty"`
}

// Layer holds the events of some points that follow each other.
type Layer struct {
	First  backstay.PointID `json:"first"`
	Last   backstay.PointID `json:"last"`
	Points int              `json:"points"` // that existed when it was written
	Events int64            `json:"events"`
	// Segments are the names of its segments, in order.
	Segments []string `json:"segments"`
}

// HeadVersion is the version of heads and segments of this release.
const HeadVersion = 1

// maxHeadItems bounds the lists of a head.
const maxHeadItems = 1 << 20

// Encode returns the head as it is stored.
func (h Head) Encode() ([]byte, error) {
	h.Version = HeadVersion
	if err := h.check(); err != nil {
		return nil, err
	}
	data, err := json.Marshal(h)
	if err != nil {
		return nil, fmt.Errorf("encode head of the list of files: %w", err)
	}
	return data, nil
}

// DecodeHead is Encode's inverse. It refuses what does not hold together.
func DecodeHead(data []byte) (Head, error) {
	var h Head
	if err := json.Unmarshal(data, &h); err != nil {
		return Head{}, fmt.Errorf("decode head of the list of files: %w: %w", ErrBad, err)
	}
	if err := h.check(); err != nil {
		return Head{}, err
	}
	return h, nil
}

func (h Head) check() error {
	if h.Version != HeadVersion {
		return fmt.Errorf("head of version %d, this release reads %d: %w", h.Version, HeadVersion, ErrBad)
	}
	for i, p := range h.Points {
		if !validPoint(p.ID) || i > 0 && p.ID <= h.Points[i-1].ID || i > maxHeadItems {
			return fmt.Errorf("point %d of a head: %w", i, ErrBad)
		}
		for j, v := range p.Volumes {
			if v.ID == "" || len(v.ID) > maxVolume || j > 0 && v.ID <= p.Volumes[j-1].ID {
				return fmt.Errorf("volume %d of point %s: %w", j, p.ID, ErrBad)
			}
		}
	}
	var last backstay.PointID
	for i, l := range h.Layers {
		if !validPoint(l.First) || !validPoint(l.Last) || l.First > l.Last || l.First <= last || l.Events < 0 || i > maxHeadItems {
			return fmt.Errorf("layer %d of a head: %w", i, ErrBad)
		}
		last = l.Last
	}
	return nil
}

// Newest returns the newest point of the list, or "".
func (h Head) Newest() backstay.PointID {
	if len(h.Layers) == 0 {
		return ""
	}
	return h.Layers[len(h.Layers)-1].Last
}

// Point returns a point that is in the list.
func (h Head) Point(id backstay.PointID) (Point, bool) {
	i := slices.IndexFunc(h.Points, func(p Point) bool { return p.ID == id })
	if i < 0 {
		return Point{}, false
	}
	return h.Points[i], true
}

// Volume returns what the newest point knows of a volume in which it was listed.
func (h Head) Volume(id backstay.VolumeID) (Volume, backstay.PointID, bool) {
	for _, p := range slices.Backward(h.Points) {
		if v, ok := p.volume(id); ok {
			return v, p.ID, true
		}
	}
	return Volume{}, "", false
}

func (p Point) volume(id backstay.VolumeID) (Volume, bool) {
	i := slices.IndexFunc(p.Volumes, func(v Volume) bool { return v.ID == id })
	if i < 0 {
		return Volume{}, false
	}
	return p.Volumes[i], true
}

// Segments are the names of all segments that the head needs.
func (h Head) Segments() []string {
	var all []string
	for _, l := range h.Layers {
		all = append(all, l.Segments...)
	}
	return all
}

// growth is how many times as many events a layer has as all newer ones together.
const growth = 3

// Plan says how many of the newest layers are written anew together with a layer of as
// many events as given. exists are the points that are there now, in order. Each layer
// stays more than growth times as big as what is newer, so that there are few; and one
// of whose points most have expired is written anew without what only they had.
func (h Head) Plan(events int64, exists []backstay.PointID) int {
	n := 0
	for _, l := range slices.Backward(h.Layers) {
		if l.Events > growth*events {
			break
		}
		events += l.Events
		n++
	}
	for i, l := range h.Layers {
		left := 0
		for _, p := range exists {
			if p >= l.First && p <= l.Last {
				left++
			}
		}
		if 2*left < l.Points {
			return max(n, len(h.Layers)-i)
		}
	}
	return n
}
