// Package items is the stream in which files travel out of a recovery point: from
// the small machine that reads them to whoever writes them, with everything that
// makes a file what it is. A Reader believes nothing of what it reads, since the
// small machine may have been taken over by the file systems in it.
//
// The sinks beside it write a stream into a folder (Folder), or as tar or zip.
package items

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// Item is one file, folder, link or node of a stream, without its content.
type Item struct {
	// Path is relative to where the taking began, with "/" between names, without
	// "." and ".."; a folder comes before what is in it.
	Path    backstay.FilePath `json:"path"`
	Type    backstay.FileType `json:"type"`
	Size    int64             `json:"size"`
	Mode    uint32            `json:"mode"`
	UID     uint32            `json:"uid"`
	GID     uint32            `json:"gid"`
	ModTime time.Time         `json:"modTime"`
	// Target is where a symbolic link points.
	Target backstay.FilePath `json:"target,omitempty"`
	// HardLink is the Path of an earlier item which this one is another name of; it
	// has no content of its own then.
	HardLink backstay.FilePath `json:"hardLink,omitempty"`
	// Device of a block or character device.
	Major uint32 `json:"major,omitempty"`
	Minor uint32 `json:"minor,omitempty"`
	// Xattrs are the extended attributes in the kernel's words, ACLs among them
	// (system.posix_acl_access).
	Xattrs []Xattr `json:"xattrs,omitempty"`
	// Error says why the item could not be read, or not whole: it has no content then,
	// or ends early.
	Error string `json:"error,omitempty"`
}

// Xattr is one extended attribute.
type Xattr struct {
	Name  string `json:"name"`
	Value []byte `json:"value"`
}
