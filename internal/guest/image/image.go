// Package image builds what a small machine starts from: Debian's kernel for
// virtual machines, uncompressed, and an initramfs with our program, Debian's tools
// for volumes and the kernel's modules. It is used where backstay is built and
// tested; a running backstay only needs the files.
package image

import (
	"context"
	"crypto/sha256"
	"embed"
	"encoding/hex"
	"encoding/json"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"time"

	"github.com/backstay/backstay/internal/debian"
)

// The files of an image.
const (
	KernelFile   = "vmlinux"
	InitrdFile   = "initrd"
	ManifestFile = "manifest.json"
)

// Manifest says what an image was made of.
type Manifest struct {
	Key      string   `json:"key"`      // changes whenever anything of the image does
	Kernel   string   `json:"kernel"`   // version of the kernel
	Packages []string `json:"packages"` // name_version of each Debian package in it
	Program  string   `json:"program"`  // SHA-256 of our program in it
}

// sources is the code that arranges an image, for the key of what it made.
//
//go:embed *.go
var sources embed.FS

// CacheDir returns the folder for images when the user named none:
// $XDG_CACHE_HOME/backstay-machine, or /var/cache/backstay-machine for root.
func CacheDir() (string, error) {
	if dir := os.Getenv("XDG_CACHE_HOME"); dir != "" {
		return filepath.Join(dir, "backstay-machine"), nil
	}
	if os.Geteuid() == 0 {
		return "/var/cache/backstay-machine", nil
	}
	dir, err := os.UserCacheDir()
	if err != nil {
		return "", fmt.Errorf("find the cache folder: %w", err)
	}
	return filepath.Join(dir, "backstay-machine"), nil
}

// Ensure returns a folder of the cache that holds an image of what there is today,
// and builds it if there is none. It must run in the source tree, whose program it
// compiles; "" as the cache folder means CacheDir. The files must not be changed. Any
// number of processes may call it at once.
func Ensure(ctx context.Context, cacheDir string) (string, error) {
	if cacheDir == "" {
		dir, err := CacheDir()
		if err != nil {
			return "", err
		}
		cacheDir = dir
	}
	if err := os.MkdirAll(cacheDir, 0o755); err != nil {
		return "", fmt.Errorf("create cache folder: %w", err)
	}
	unlock, err := debian.Lock(filepath.Join(cacheDir, "lock"))
	if err != nil {
		return "", err
	}
	defer unlock()
	work, err := os.MkdirTemp(cacheDir, "build-")
	if err != nil {
		return "", fmt.Errorf("create build folder: %w", err)
	}
	defer os.RemoveAll(work)
	program, err := compile(ctx, work)
	if err != nil {
		return "", err
	}
	base, err := ensureBase(ctx, cacheDir, work)
	if err != nil {
		return "", err
	}
	sum := sha256.Sum256(program)
	key := strings.TrimPrefix(filepath.Base(base), "base-") + "-" + hex.EncodeToString(sum[:8])
	dir := filepath.Join(cacheDir, "image-"+key)
	now := time.Now()
	if err := os.Chtimes(dir, now, now); err == nil {
		return dir, nil
	}
	made := filepath.Join(work, "image")
	if err := join(base, made, program, key); err != nil {
		return "", fmt.Errorf("make image of a small machine: %w", err)
	}
	// The rename is what makes it an image: a build that was killed leaves a folder
	// that the next one removes.
	if err := os.Rename(made, dir); err != nil {
		return "", fmt.Errorf("keep image of a small machine: %w", err)
	}
	return dir, removeStale(cacheDir, base, dir, work)
}

// stale is how long an image of another key is kept after its last use: another
// checkout may be working with it.
const stale = 2 * time.Hour

// removeStale removes what other keys left and folders of killed builds; the caller
// holds the lock.
func removeStale(cacheDir string, keep ...string) error {
	for _, pattern := range []string{"image-*", "base-*", "build-*"} {
		old, err := filepath.Glob(filepath.Join(cacheDir, pattern))
		if err != nil {
			return err
		}
	next:
		for _, path := range old {
			for _, k := range keep {
				if path == k {
					continue next
				}
			}
			if info, err := os.Stat(path); err == nil && time.Since(info.ModTime()) < stale {
				continue
			}
			if err := os.RemoveAll(path); err != nil {
				return fmt.Errorf("remove stale image: %w", err)
			}
		}
	}
	return nil
}

// join makes an image of the base and our program: archives after each other are
// one to the kernel. The kernel's file is shared, as it is large.
func join(base, to string, program []byte, key string) error {
	if err := os.Mkdir(to, 0o755); err != nil {
		return err
	}
	if err := os.Link(filepath.Join(base, KernelFile), filepath.Join(to, KernelFile)); err != nil {
		return err
	}
	text, err := os.ReadFile(filepath.Join(base, ManifestFile))
	if err != nil {
		return err
	}
	var m Manifest
	if err := json.Unmarshal(text, &m); err != nil {
		return err
	}
	sum := sha256.Sum256(program)
	m.Key, m.Program = key, hex.EncodeToString(sum[:])
	if err := writeManifest(to, m); err != nil {
		return err
	}
	rest, err := os.ReadFile(filepath.Join(base, InitrdFile))
	if err != nil {
		return err
	}
	file, err := os.Create(filepath.Join(to, InitrdFile))
	if err != nil {
		return err
	}
	defer file.Close()
	if _, err := file.Write(rest); err != nil {
		return err
	}
	a := debian.NewArchive(file)
	a.Program("init", program)
	if err := a.Close(); err != nil {
		return err
	}
	return file.Close()
}

func writeManifest(dir string, m Manifest) error {
	text, err := json.MarshalIndent(m, "", "  ")
	if err != nil {
		return err
	}
	return os.WriteFile(filepath.Join(dir, ManifestFile), append(text, '\n'), 0o644)
}

// compile builds the machine's program from the source tree.
func compile(ctx context.Context, work string) ([]byte, error) {
	out := filepath.Join(work, "program")
	_, err := debian.Run(ctx, "env", "CGO_ENABLED=0", "GOOS=linux", "GOARCH=amd64",
		"go", "build", "-buildvcs=false", "-trimpath", "-ldflags=-s -w", "-o", out, "github.com/backstay/backstay/cmd/small-machine-init")
	if err != nil {
		return nil, fmt.Errorf("compile the small machine's program: %w", err)
	}
	return os.ReadFile(out)
}

// key names a base by the hash of what goes into it.
func key(versions []string) (string, error) {
	h := sha256.New()
	fmt.Fprintln(h, debian.Key())
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
	for _, v := range versions {
		fmt.Fprintln(h, v)
	}
	return hex.EncodeToString(h.Sum(nil))[:16], nil
}
