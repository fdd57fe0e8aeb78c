// Package guest builds the small Linux guest that the sandbox boots: a disk
// image that starts by its own boot loader under BIOS and UEFI, with a guest
// agent, an ext4 root, a web page and a boot counter.
//
// It is made from Debian's packages and files of this package in a few seconds,
// without loop devices, mounts or a network once the packages are in the cache.
// It knows nothing of libvirt; defining VMs is the sandbox's business.
package guest

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/backstay/backstay/internal/debian"
)

// sources is everything of ours that goes into an image: the files that are
// copied into it and the code that arranges them. Its hash is part of the key
// under which an image is cached, so a change of either makes a new image.
//
//go:embed *.go files ticker
var sources embed.FS

// Labels of the file systems in the guest: the initramfs finds the root by its
// label, and a data disk with this label is mounted at /data.
const (
	RootLabel = "guest-root"
	DataLabel = "guest-data"
)

// Ready is what the guest prints on its serial console when it is up.
const Ready = "GUEST-READY"

// CacheDir returns the folder for images when the user named none:
// $XDG_CACHE_HOME/backstay-sandbox, or /var/cache/backstay-sandbox for root.
func CacheDir() (string, error) {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "backstay-sandbox"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/backstay-sandbox", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "backstay-sandbox"), nil
}

// Image returns the path of a raw guest image in the cache folder, building it
// if there is none for what would go into it today. The file is sparse, about
// 200 MiB long, and must not be written to. Any number of processes may call it
// at once.
func Image(ctx context.Context, cacheDir string) (string, error) {
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := debian.Lock(filepath.Join(cacheDir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	in, err := gather(ctx, cacheDir)
	if err != nil {
		return "", fmt.Errorf("gather what the guest is made of: %w", err)
	}
	key, err := in.key()
	if err != nil {
		return "", err
	}
	path := filepath.Join(cacheDir, "guest-"+key+".raw")
	if _, err := os.Stat(path); err == nil {
		now := time.Now()
		return path, os.Chtimes(path, now, now)
	}
	work, err := os.MkdirTemp(cacheDir, "build-")
	if err != nil {
		return "", fmt.Errorf("create build folder: %w", err)
	}
	defer os.RemoveAll(work)
	built, err := build(ctx, in, work)
	if err != nil {
		return "", fmt.Errorf("build guest image: %w", err)
	}
	// The rename is what makes it an image: a build that was killed leaves a
	// folder that the next builder's lock lets it remove, and never half an image.
	if err := os.Rename(built, path); err != nil {
		return "", fmt.Errorf("keep guest image: %w", err)
	}
	return path, removeStale(cacheDir, path)
}

// stale is how long an image of another key is kept after its last use: another
// checkout may be working with it.
const stale = time.Hour

// removeStale removes images of other keys and folders of killed builds; the
// caller holds the lock.
func removeStale(cacheDir, keep string) error {
	for _, pattern := range []string{"guest-*.raw", "build-*"} {
		old, err := filepath.Glob(filepath.Join(cacheDir, pattern))
		if err != nil {
			return err
		}
		for _, path := range old {
			info, err := os.Stat(path)
			if path == keep || err == nil && !info.IsDir() && time.Since(info.ModTime()) < stale {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove stale image: %w", err)
			}
		}
	}
	return nil
}

// key names the image by the hash of what goes into it.
func (in inputs) key() (string, error) {
	h := sha256.New()
	err := fs.WalkDir(sources, ".", func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		text, err := sources.ReadFile(path)
		fmt.Fprintf(h, "%s %d\n%s\n", path, len(text), text)
		return err
	})
	if err != nil {
		return "", fmt.Errorf("hash sources: %w", err)
	}
	fmt.Fprintln(h, debian.Key())
	for _, v := range in.versions {
		fmt.Fprintln(h, v)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}
