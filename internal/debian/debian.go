// Package debian makes parts of small Linux systems out of Debian's packages: it
// downloads and unpacks them without installing them, finds a kernel, and which
// modules and libraries something needs, and writes an initramfs. It knows nothing
// of what the systems are for.
package debian

import (
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"

	"golang.org/x/sys/unix"
)

//go:embed *.go
var sources embed.FS

// Key changes when the code of this package does. It belongs into the key of what
// is made with it.
func Key() string {
	h := sha256.New()
	// The embedded files cannot fail to be read.
	_ = fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s\n", path, len(text), text)
		return err
	})
	return hex.EncodeToString(h.Sum(nil))
}

// Lock takes the cache's lock and returns what releases it. The kernel releases
// it too when the process dies.
func Lock(path string) (func(), error) {
	file, err := os.OpenFile(path, os.O_RDWR|os.O_CREATE, 0o644)
	if err != nil {
		return nil, fmt.Errorf("open cache lock: %w", err)
	}
	for {
		err = unix.Flock(int(file.Fd()), unix.LOCK_EX)
		if err != unix.EINTR {
			break
		}
	}
	if err != nil {
		file.Close()
		return nil, fmt.Errorf("lock cache: %w", err)
	}
	return func() { file.Close() }, nil
}
