package debian

import (
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"sort"
	"strings"
)

// kernelPackage depends on the newest kernel for virtual machines.
const kernelPackage = "linux-image-cloud-amd64"

// ErrLists tells that apt's lists lack a package, or name one that its server
// has no more.
var ErrLists = errors.New("apt's lists are missing or old: run `apt-get update`")

// Kernel returns the newest installed Debian cloud kernel and its modules, or
// unpacks one.
func Kernel(ctx context.Context, cacheDir string) (image, modules string, err error) {
	if image, modules, ok := newestKernel("/"); ok {
		return image, modules, nil
	}
	out, err := Run(ctx, "apt-cache", "depends", kernelPackage)
	if err != nil {
		return cachedKernel(cacheDir, err)
	}
	for line := range strings.Lines(out) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-")
		if !ok {
			continue
		}
		name = "linux-image-" + name
		versions, err := Candidates(ctx, name)
		if err != nil {
			return "", "", err
		}
		dir, _, err := Unpacked(ctx, cacheDir, name, versions[name])
		if err != nil {
			return "", "", err
		}
		if image, modules, ok := newestKernel(dir); ok {
			return image, modules, nil
		}
	}
	return "", "", fmt.Errorf("find a kernel: package %s brings none", kernelPackage)
}

// cachedKernel returns a kernel that was unpacked earlier; apt's lists know none.
func cachedKernel(cacheDir string, cause error) (image, modules string, err error) {
	dirs, _ := filepath.Glob(filepath.Join(cacheDir, "packages/linux-image-*"))
	for i := len(dirs) - 1; i >= 0; i-- {
		if image, modules, ok := newestKernel(dirs[i]); ok {
			return image, modules, nil
		}
	}
	return "", "", fmt.Errorf("find a kernel: %w: %w", ErrLists, cause)
}

// newestKernel looks for a cloud kernel below a root folder.
func newestKernel(root string) (image, modules string, ok bool) {
	images, _ := filepath.Glob(filepath.Join(root, "boot/vmlinuz-*-cloud-amd64"))
	sort.Strings(images)
	for i := len(images) - 1; i >= 0; i-- {
		version := strings.TrimPrefix(filepath.Base(images[i]), "vmlinuz-")
		modules := filepath.Join(root, "lib/modules", version)
		if _, err := os.Stat(filepath.Join(modules, "kernel")); err == nil {
			return images[i], modules, true
		}
	}
	return "", "", false
}

// Unpacked returns the folder that holds a package's files, and its name and
// version. It downloads the package if this version is not in the cache; when apt
// knows no version, one that is in the cache will do.
func Unpacked(ctx context.Context, cacheDir, pkg, v string) (dir, version string, err error) {
	store := filepath.Join(cacheDir, "packages")
	if v == "" {
		if old, _ := filepath.Glob(filepath.Join(store, pkg+"_*")); len(old) > 0 {
			newest := old[len(old)-1]
			return newest, filepath.Base(newest), nil
		}
		return "", "", fmt.Errorf("find package %s: %w", pkg, ErrLists)
	}
	name := pkg + "_" + strings.ReplaceAll(v, ":", "%3a")
	dir = filepath.Join(store, name)
	if _, err := os.Stat(dir); err == nil {
		return dir, name, nil
	}
	if err := os.MkdirAll(store, 0o755); err != nil {
		return "", "", fmt.Errorf("create package folder: %w", err)
	}
	work, err := os.MkdirTemp(store, ".unpack-")
	if err != nil {
		return "", "", fmt.Errorf("create package folder: %w", err)
	}
	defer os.RemoveAll(work)
	if err := download(ctx, work, pkg+"="+v); err != nil {
		return "", "", err
	}
	return dir, name, os.Rename(filepath.Join(work, "root"), dir)
}

// download fetches one package and unpacks it into work/root.
func download(ctx context.Context, work, pkg string) error {
	cmd := exec.CommandContext(ctx, "apt-get", "download", "-q", pkg)
	cmd.Dir = work
	if out, err := cmd.CombinedOutput(); err != nil {
		return fmt.Errorf("download %s: %w (%w): %s", pkg, ErrLists, err, lastLines(out))
	}
	debs, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("download %s: got %d files instead of one", pkg, len(debs))
	}
	_, err := Run(ctx, "dpkg-deb", "-x", debs[0], filepath.Join(work, "root"))
	return err
}

// Candidates returns the version of each package that apt would download; one
// that apt does not know is left out.
func Candidates(ctx context.Context, pkgs ...string) (map[string]string, error) {
	out, err := Run(ctx, "apt-cache", append([]string{"policy"}, pkgs...)...)
	if err != nil {
		return nil, err
	}
	versions := map[string]string{}
	var pkg string
	for line := range strings.Lines(out) {
		if !strings.HasPrefix(line, " ") {
			pkg, _, _ = strings.Cut(line, ":")
		}
		if v, ok := strings.CutPrefix(strings.TrimSpace(line), "Candidate: "); ok && v != "(none)" {
			versions[pkg] = v
		}
	}
	return versions, nil
}

// Run runs a command and returns its standard output; an error has its last
// lines of standard error.
func Run(ctx context.Context, name string, args ...string) (string, error) {
	// mke2fs and mkfs.vfat live in sbin, which a user's PATH, and that of a root
	// who came by su, may lack.
	if _, err := exec.LookPath(name); err != nil && !strings.Contains(name, "/") {
		name = filepath.Join("/usr/sbin", name)
	}
	cmd := exec.CommandContext(ctx, name, args...)
	cmd.Env = append(os.Environ(), "LC_ALL=C", "PATH="+os.Getenv("PATH")+":/usr/sbin:/sbin")
	out, err := cmd.Output()
	if err != nil {
		var exit *exec.ExitError
		if errors.As(err, &exit) {
			return "", fmt.Errorf("run %s: %w: %s", name, err, lastLines(exit.Stderr))
		}
		return "", fmt.Errorf("run %s: %w", name, err)
	}
	return string(out), nil
}

// lastLines keeps the end of a program's output for an error message.
func lastLines(out []byte) string {
	text := strings.TrimSpace(string(out))
	if len(text) > 400 {
		text = "…" + text[len(text)-400:]
	}
	return text
}
