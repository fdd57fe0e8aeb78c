package host

import (
	"bytes"
	"errors"
	"fmt"
	"io/fs"
	"maps"
	"os"
	"slices"

	"github.com/backstay/backstay/internal/tier"
)

// handOver adds the files that the point's definition hands to its guest and that
// the host lacks: keys with which the guest opens its own disks. One that is there
// is never written over; where it is another, the guest gets that, and it is said.
func (c *companions) handOver(def tier.Definition, j *restoreJournal) (warnings []string) {
	c.handed = map[string]tier.HostFile{}
	for _, path := range slices.Sorted(maps.Keys(def.Files)) {
		file := def.Files[path]
		there, err := os.ReadFile(path)
		if errors.Is(err, fs.ErrNotExist) || slices.Contains(j.Files, path) {
			c.files[path], c.handed[path] = file.Content, file
			continue
		}
		if err != nil || !bytes.Equal(there, file.Content) {
			warnings = append(warnings, fmt.Sprintf("%s, which the definition hands to the guest, is there and is not as it was in the point; it stays as it is", path))
		}
	}
	return warnings
}

// asItWas gives a file that is handed to a guest the owner and the permissions of
// the captured one: QEMU itself must be able to read it.
func (c *companions) asItWas(path string) error {
	file, ok := c.handed[path]
	if !ok {
		return nil
	}
	if os.Geteuid() == 0 {
		if err := os.Chown(path, file.UID, file.GID); err != nil {
			return err
		}
	}
	return os.Chmod(path, fs.FileMode(file.Mode)&fs.ModePerm)
}
