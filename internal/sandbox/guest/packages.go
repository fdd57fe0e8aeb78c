package guest

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	"github.com/backstay/backstay/internal/debian"
)

// drivers are what the guest needs to find its disks and to talk to its host.
var drivers = []string{
	"virtio_pci", "virtio_blk", "virtio_scsi", "sd_mod",
	"virtio_console", "virtio_net", "virtio-rng", "virtio_balloon",
}

// The packages that are only unpacked into the cache: installing them would put
// an agent, a boot loader or a kernel on the machine itself.
const (
	agentPackage = "qemu-guest-agent"
	grubPackage  = "grub-efi-amd64-bin"
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

// gather finds the parts, and downloads and unpacks what is not there yet. Where
// apt's lists turn out to be missing or old, root fetches them.
func gather(ctx context.Context, cacheDir string) (inputs, error) {
	in, err := find(ctx, cacheDir)
	if !errors.Is(err, debian.ErrLists) || os.Geteuid() != 0 {
		return in, err
	}
	if _, failed := debian.Run(ctx, "apt-get", "update", "-q"); failed != nil {
		return in, errors.Join(err, failed)
	}
	return find(ctx, cacheDir)
}

func find(ctx context.Context, cacheDir string) (inputs, error) {
	var in inputs
	// Asked once for both: apt takes half a second to think.
	versions, err := debian.Candidates(ctx, agentPackage, grubPackage)
	if err != nil {
		return in, err
	}
	var version string
	if in.agent, version, err = debian.Unpacked(ctx, cacheDir, agentPackage, versions[agentPackage]); err != nil {
		return in, err
	}
	in.versions = append(in.versions, version)
	if in.grub, version, err = debian.Unpacked(ctx, cacheDir, grubPackage, versions[grubPackage]); err != nil {
		return in, err
	}
	in.versions = append(in.versions, version)
	if in.kernel, in.modules, err = debian.Kernel(ctx, cacheDir); err != nil {
		return in, err
	}
	in.versions = append(in.versions, filepath.Base(in.modules))
	out, err := debian.Run(ctx, "dpkg-query", append([]string{"-W", "-f", "${Package} ${Version}\n"}, installed...)...)
	if err != nil {
		return in, fmt.Errorf("find needed packages (scripts/install-deps installs them): %w", err)
	}
	in.versions = append(in.versions, out)
	return in, nil
}
