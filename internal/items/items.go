// Package items is the stream in which files travel out of a recovery point: from
// the small machine that reads them to whoever writes them, with everything that
// makes a file what it is. A Reader believes nothing of what it reads, since the
// small machine may have been taken over by the file systems in it.
//
// The sinks beside it write a stream into a folder (Folder), or as tar or zip.
// docs/formats/items.md is the format.
package items

import (
	"errors"
	"time"

	backstay "github.com/backstay/backstay"
)

// MediaType names a stream of items where it travels over HTTP.
const MediaType = "application/x-backstay-items"

// The limits of a stream. A Writer keeps to them, and a Reader ends at what exceeds them.
const (
	MaxPath    = 64<<10 - 1 // bytes of a path or of a link's target
	MaxName    = 4096       // bytes between two "/"
	MaxDepth   = 1000       // names in a path
	MaxHeader  = 1 << 20    // bytes of all that is said about an item
	MaxRun     = 1 << 20    // bytes of content at a time
	MaxExtents = 16 << 10   // pieces of one sparse file that are told before its content
	MaxXattrs  = 1024       // of one item
	MaxText    = 1024       // bytes of a reason or note

	// MaxLinked is how many items of a stream may be Linked, and MaxLinkedBytes how many
	// bytes their paths may have: both sides must remember them.
	MaxLinked      = 1 << 20
	MaxLinkedBytes = 64 << 20
)

// What can be wrong with a stream. Every error of a Reader wraps one of them, or what
// reading returned.
var (
	ErrFormat   = errors.New("this is no stream of items of version 1")
	ErrCut      = errors.New("the stream ends before its end mark")
	ErrPath     = errors.New("a path that no item may have")
	ErrOrder    = errors.New("an item that does not lie in a folder before it")
	ErrUnasked  = errors.New("an item that nobody asked for")
	ErrHardLink = errors.New("a hard link to what no item before it is")
	ErrContent  = errors.New("content where the item has none")
	ErrTooBig   = errors.New("more than a stream may hold")
	ErrCount    = errors.New("the end mark tells of other items than came")
)

// Item is one file, folder, link or node of a stream, without its content.
type Item struct {
	// Path is relative to where the taking began, with "/" between names, without
	// "." and ".."; a folder comes before what is in it, and all that is in it comes
	// before anything that is not.
	Path    backstay.FilePath `json:"path"`
	Type    backstay.FileType `json:"type"`
	Size    int64             `json:"size"` // bytes; 0 for what is no file
	Mode    uint32            `json:"mode"` // the permission bits with set-uid, set-gid and sticky
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	ModTime time.Time         `json:"modTime"`
	// Target is where a symbolic link points.
	Target backstay.FilePath `json:"target,omitempty"`
	// Linked says that a later item may be another name of this one, and HardLink is the
	// Path of an earlier, Linked item of which this is another name; it has no
	// content of its own then.
	Linked   bool              `json:"linked,omitempty"`
	HardLink backstay.FilePath `json:"hardLink,omitempty"`
	// Device of a block or character device.
	Major uint32 `json:"major,omitempty"`
	Minor uint32 `json:"minor,omitempty"`
	// Xattrs are the extended attributes in the kernel's words, ACLs among them
	// (system.posix_acl_access).
	Xattrs []Xattr `json:"xattrs,omitempty"`
	// Sparse says that Extents are all the places where content will be, in order;
	// everything between them is a hole.
	Sparse  bool     `json:"sparse,omitempty"`
	Extents []Extent `json:"extents,omitempty"`
	// Note says what of the item, other than its content, could not be read.
	Note string `json:"note,omitempty"`
	// Error says why the item could not be read: it has no content then, and of a folder
	// nothing or not all that is in it follows. A file whose content ends early is told of
	// by its end (Broken).
	Error string `json:"error,omitempty"`
}

// Extent is a piece of a file.
type Extent struct {
	Offset int64 `json:"offset"`
	Length int64 `json:"length"`
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}

// Run is content at a place of a file. Data is valid until the next call.
type Run struct {
	Offset int64
	Data   []byte
}

// Broken is the end of a file whose content could not be read to its end. The stream
// goes on after it.
type Broken struct {
	Path   backstay.FilePath
	Reason string
}

// Error names the file and the reason.
func (b *Broken) Error() string { return "read " + b.Path.String() + ": " + b.Reason }
