package fileindex

import (
	"cmp"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// Version is what a path is from some point on. The zero Version says that it is gone.
type Version struct {
	Type    backstay.FileType // "" for gone
	Size    int64             // bytes
	ModTime int64             // nanoseconds since 1970
	Changed int64             // of the inode, likewise; 0 if not known
	Inode   uint64            // 0 if not known
	SHA256  [32]byte          // of the content; zeros if not known
}

// Gone tells whether the path does not exist.
func (v Version) Gone() bool { return v.Type == "" }

// Hashed tells whether the content's hash is known.
func (v Version) Hashed() bool { return v.SHA256 != [32]byte{} }

// sameContent tells whether nobody who reads the file could tell the two apart, as far
// as is known.
func (v Version) sameContent(o Version) bool {
	if v.Type != o.Type || v.Size != o.Size || v.ModTime != o.ModTime || v.SHA256 != o.SHA256 {
		return false
	}
	return v.Type != backstay.TypeFile || v.Hashed() || v.Changed == o.Changed && v.Inode == o.Inode
}

// Event says what a path of a volume is from Point on.
type Event struct {
	Volume backstay.VolumeID
	Path   backstay.FilePath
	Point  backstay.PointID
	Version
}

// comparePaths orders volumes by name, and what is in them as a walk does.
func comparePaths(a, b Event) int {
	if c := strings.Compare(string(a.Volume), string(b.Volume)); c != 0 {
		return c
	}
	return wire.ComparePaths(a.Path, b.Path)
}

// compare is the order of events in a layer. Point ids are ordered by time.
func compare(a, b Event) int {
	if c := comparePaths(a, b); c != 0 {
		return c
	}
	return cmp.Compare(a.Point, b.Point)
}

// FromRow is the version that a row of a walk tells of, without a hash.
func FromRow(r wire.Row) Version {
	return Version{Type: r.Type, Size: r.Size, ModTime: r.ModTime, Changed: r.Changed, Inode: r.Inode}
}

// Racy is how long before the end of what is known of a volume an inode's times are not
// trusted, in nanoseconds: a file can change twice within one tick of the guest's clock,
// once before the point and once after it, and have the same times in both.
const Racy = int64(2e9)

// Unchanged tells whether a file is surely what it was in an earlier point, so that its
// hash can be kept: inode, size and both times are the same, and until is behind the time
// at which the inode last changed. A file system without inode times proves nothing.
func Unchanged(before, now Version, until int64) bool {
	now.SHA256 = before.SHA256
	return before == now && now.Changed != 0 && now.Inode != 0 && now.Changed < until
}
