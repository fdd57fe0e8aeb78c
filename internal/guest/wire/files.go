package wire

import (
	backstay "github.com/backstay/backstay"
)

// The operations on the files of a volume. Paths begin with "/" and are those of
// the volume. Symbolic links on the way are resolved as if the volume's root were the
// guest's, and lead nowhere else; a link that is the last name is followed by OpList,
// OpRead, OpHash and OpWalk, and is itself what OpStat and OpTake are asked for.
const (
	OpList = "list" // ListRequest → Folder
	OpStat = "stat" // PathRequest → backstay.FileEntry
	OpRead = "read" // ReadRequest → stream: bytes of a file
	OpTake = "take" // TakeRequest → stream: items
	OpWalk = "walk" // WalkRequest → stream of RowWriter, for the index
)

// PathRequest names one file.
type PathRequest struct {
	Volume backstay.VolumeID `json:"volume"`
	Path   backstay.FilePath `json:"path"`
}

// ListRequest asks for a part of a folder.
type ListRequest struct {
	PathRequest
	// After is the Next of the answer before; "" to begin.
	After string `json:"after,omitempty"`
	// Limit is the most entries that are wanted; 0 means MaxEntries, which no answer exceeds.
	Limit int `json:"limit,omitempty"`
}

// MaxEntries is the most entries of one answer.
const MaxEntries = 10_000

// Folder is a part of a folder, sorted by name as far as one answer reaches.
type Folder struct {
	Entries []backstay.FileEntry `json:"entries"`
	Next    string               `json:"next,omitempty"` // "" if that was all
}

// ReadRequest asks for bytes of a file.
type ReadRequest struct {
	PathRequest
	Offset int64 `json:"offset"`
	Length int64 `json:"length"` // -1: to the end
}

// TakeRequest asks for files and folders, with all that is in them.
type TakeRequest struct {
	Volume backstay.VolumeID   `json:"volume"`
	Paths  []backstay.FilePath `json:"paths"`
	// Strip is the folder to which the paths of the items are relative; every path lies
	// in it. "" means the parent of each.
	Strip backstay.FilePath `json:"strip,omitempty"`
}

// WalkRequest asks for the rows of all that is below a folder of a volume. Nothing is
// read of files: OpHash does that, for those that changed.
type WalkRequest struct {
	Volume backstay.VolumeID `json:"volume"`
	Path   backstay.FilePath `json:"path"` // "/" for all of it
	// Flat leaves out what is below the folders in the folder.
	Flat bool `json:"flat,omitempty"`
}
