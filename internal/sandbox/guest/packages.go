package guest

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

// The packages that are only unpacked into the cache: installing them would put
// an agent, a boot loader or a kernel on the machine itself.
const (
	agentPackage  = "qemu-guest-agent"
	grubPackage   = "grub-efi-amd64-bin"
	kernelPackage = "linux-image-cloud-amd64"
)

// installed are the packages whose files are used from where they are.
var installed = []string{"busybox-static", "syslinux", "mtools", "dosfstools", "e2fsprogs"}

// inputs is where the parts of an image come from.
type inputs struct {
	agent, grub string   // folders into which the packages were unpacked
	kernel      string   // the kernel image
	modules     string   // its folder of modules
	versions    []string // of everything, for the key
}

// errLists tells that apt's lists lack a package, or name one that its server
// has no more.
var errLists = errors.New("apt's lists are missing or old: run `apt-get update`")

// gather finds the parts, and downloads and unpacks what is not there yet. Where
// apt's lists turn out to be missing or old, root fetches them.
func gather(ctx context.Context, cacheDir string) (inputs, error) {
	in, err := find(ctx, cacheDir)
	if !errors.Is(err, errLists) || os.Geteuid() != 0 {
		return in, err
	}
	if _, failed := run(ctx, "apt-get", "update", "-q"); failed != nil {
		return in, errors.Join(err, failed)
	}
	return find(ctx, cacheDir)
}

func find(ctx context.Context, cacheDir string) (inputs, error) {
	var in inputs
	// Asked once for both: apt takes half a second to think.
	versions, err := candidates(ctx, agentPackage, grubPackage)
	if err != nil {
		return in, err
	}
	var version string
	if in.agent, version, err = unpacked(ctx, cacheDir, agentPackage, versions[agentPackage]); err != nil {
		return in, err
	}
	in.versions = append(in.versions, version)
	if in.grub, version, err = unpacked(ctx, cacheDir, grubPackage, versions[grubPackage]); err != nil {
		return in, err
	}
	in.versions = append(in.versions, version)
	if in.kernel, in.modules, err = kernel(ctx, cacheDir); err != nil {
		return in, err
	}
	in.versions = append(in.versions, filepath.Base(in.modules))
	out, err := run(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${Version}\n"}, installed...)...)
	if err != nil {
		return in, fmt.Errorf("find needed packages (scripts/install-deps installs them): %w", err)
	}
	in.versions = append(in.versions, out)
	return in, nil
}

// kernel returns the newest installed Debian cloud kernel and its modules, or
// unpacks one.
func kernel(ctx context.Context, cacheDir string) (image, modules string, err error) {
	if image, modules, ok := newestKernel("/"); ok {
		return image, modules, nil
	}
	out, err := run(ctx, "apt-cache", "depends", kernelPackage)
	if err != nil {
		return cachedKernel(cacheDir, err)
	}
	for line := range strings.Lines(out) {
		name, ok := strings.CutPrefix(strings.TrimSpace(line), "Depends: linux-image-")
		if !ok {
			continue
		}
		name = "linux-image-" + name
		versions, err := candidates(ctx, name)
		if err != nil {
			return "", "", err
		}
		dir, _, err := unpacked(ctx, cacheDir, name, versions[name])
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
	return "", "", fmt.Errorf("find a kernel: %w: %w", errLists, cause)
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

// unpacked returns the folder that holds a package's files, and its name and
// version. It downloads the package if this version is not in the cache; when apt
// knows no version, one that is in the cache will do.
func unpacked(ctx context.Context, cacheDir, pkg, v string) (dir, version string, err error) {
	store := filepath.Join(cacheDir, "packages")
	if v == "" {
		if old, _ := filepath.Glob(filepath.Join(store, pkg+"_*")); len(old) > 0 {
			newest := old[len(old)-1]
			return newest, filepath.Base(newest), nil
		}
		return "", "", fmt.Errorf("find package %s: %w", pkg, errLists)
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
		return fmt.Errorf("download %s: %w (%w): %s", pkg, errLists, err, lastLines(out))
	}
	debs, _ := filepath.Glob(filepath.Join(work, "*.deb"))
	if len(debs) != 1 {
		return fmt.Errorf("download %s: got %d files instead of one", pkg, len(debs))
	}
	_, err := run(ctx, "dpkg-deb", "-x", debs[0], filepath.Join(work, "root"))
	return err
}

// candidates returns the version of each package that apt would download; one
// that apt does not know is left out.
func candidates(ctx context.Context, pkgs ...string) (map[string]string, error) {
	out, err := run(ctx, "apt-cache", append([]string{"policy"}, pkgs...)...)
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

// run runs a command and returns its standard output; an error has its last
// lines of standard error.
func run(ctx context.Context, name string, args ...string) (string, error) {
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
