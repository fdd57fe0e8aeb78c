package record

import (
	"path/filepath"

	backstay "github.com/backstay/backstay"
)

// Copy is the journal of one disk that is being put on a copy, since others stand
// on its layers.
type Copy struct {
	Version int                 `json:"version"`
	VM      backstay.VMID       `json:"vm"`
	Target  backstay.DiskTarget `json:"target"`
	// Active is the layer that the VM wrote to, and From its file.
	Active backstay.LayerID `json:"active"`
	From   string           `json:"from"`
	// To is the copy and Format its format; nobody else uses it.
	To     string `json:"to"`
	Format string `json:"format"`
	// Bottom is the layer whose file the VM used when its protection began, and
	// Original that file's name, which the copy takes if it can.
	Bottom   backstay.LayerID `json:"bottom"`
	Original string           `json:"original"`
	// Aside is the name under which the original file stays then.
	Aside string `json:"aside"`

	// Path is where the journal lies.
	Path string `json:"-"`
}

// copyPrefix starts the file name of a copy's journal.
const copyPrefix = "copy-"

// CopyFile is the path of the journal of a disk that leaves a layer.
func CopyFile(active *Layer) string {
	return filepath.Join(active.RecordFolder(), Folder, intentFolder, copyPrefix+string(active.ID)+".json")
}

// Write writes the journal.
func (c *Copy) Write() error {
	c.Version = Version
	return WriteJSON(c.Path, c)
}
