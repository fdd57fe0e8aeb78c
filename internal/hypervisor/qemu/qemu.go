// Package qemu makes, reads and merges disk images with QEMU's own tools:
// qemu-img for work on files, qemu-nbd to serve one over a unix socket. It
// implements hypervisor.Images.
//
// Every image is opened with the format that the caller names, and a backing
// file only if the image records its format: a guest that writes a qcow2 header
// onto its raw disk gains nothing. Images of other formats than qcow2, raw and
// luks are not opened at all, but for VMDK and VHDX as a whole, where all of the
// image lies in its one file; encrypted ones only with a secret that the caller
// names; its value goes to the tools through a pipe.
//
// It decides nothing about layers; it does not know VMs.
package qemu

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Options say where the tools and the sockets are.
type Options struct {
	// Dir is a folder of our own for the sockets of exports; it is made with
	// mode 0700. Its path must be short: a socket's is limited to 107 bytes.
	// Empty means a folder in os.TempDir().
	Dir string
	// Secrets knows the keys of encrypted images; nil refuses them.
	Secrets hypervisor.Secrets
	// Img and NBD are the programs; empty means "qemu-img" and "qemu-nbd" in PATH.
	Img, NBD string
}

// Images is hypervisor.Images by QEMU's tools. All methods may be called
// concurrently.
type Images struct {
	img, nbd string
	dir      string // of this process: Options.Dir/exports-PID
	secrets  hypervisor.Secrets
}

var _ hypervisor.Images = (*Images)(nil)

// New returns Images, and sweeps the sockets that dead processes left in
// Options.Dir (I9). Their servers died with them.
func New(o Options) *Images {
	if o.Dir == "" {
		o.Dir = filepath.Join(os.TempDir(), "backstay-"+strconv.Itoa(os.Getuid()))
	}
	if o.Img == "" {
		o.Img = "qemu-img"
	}
	if o.NBD == "" {
		o.NBD = "qemu-nbd"
	}
	sweep(o.Dir)
	return &Images{img: o.Img, nbd: o.NBD, secrets: o.Secrets, dir: filepath.Join(o.Dir, exportsPrefix+strconv.Itoa(os.Getpid()))}
}

// Create makes an empty image, durably. A crash in it can leave an unfinished
// file of that name, which only the caller's journal can tell from a finished one.
func (im *Images) Create(ctx context.Context, path, format string, size int64) error {
	if err := carried(format); err != nil {
		return fmt.Errorf("create image %s: %w", path, err)
	}
	if size <= 0 || size%512 != 0 {
		return fmt.Errorf("create image %s: size %d is not a positive multiple of 512", path, size)
	}
	return im.create(path, func() error {
		if format == "raw" {
			return os.Truncate(path, size)
		}
		_, err := im.run(ctx, im.img, "create", "-q", "-f", format, fileName(path), strconv.FormatInt(size, 10))
		return err
	})
}

// CreateOverlay makes an overlay, durably; see Create for a crash. The backing
// image is not locked, so it may be in use by a running VM.
func (im *Images) CreateOverlay(ctx context.Context, o hypervisor.Overlay) error {
	if err := known(o.Backing.Format); err != nil {
		return fmt.Errorf("create overlay %s: %w", o.Path, err)
	}
	ctx, cancel := bounded(ctx, o.Backing.Location)
	defer cancel()
	info, err := im.info(ctx, o.Backing.Location, o.Backing.Format)
	if err != nil {
		return fmt.Errorf("create overlay %s: %w", o.Path, err)
	}
	if info.Encrypted && o.Backing.Secret == "" {
		return fmt.Errorf("create overlay %s: %s is encrypted, and no secret is named: it would hold plain data", o.Path, o.Backing.Location)
	}
	if o.Size <= 0 {
		o.Size = info.VirtualSize
	}
	return im.create(o.Path, func() error { return im.fillOverlay(ctx, o) })
}

// fillOverlay makes the overlay in a file that is there.
func (im *Images) fillOverlay(ctx context.Context, o hypervisor.Overlay) error {
	options := "cluster_size=128k,extended_l2=on"
	if o.Coarse {
		options = "cluster_size=64k"
	}
	if o.Backing.Secret != "" {
		options += "," + encryptedQcow2
	}
	return again(func() error {
		// -u: the backing file is named, not opened. Its size is given instead.
		_, err := im.runKeyed(ctx, o.Backing.Secret, "create", "-q", "-f", "qcow2", "-u", "-F", o.Backing.Format, "-b", o.Backing.Location,
			"-o", options, fileName(o.Path), strconv.FormatInt(o.Size, 10))
		return err
	})
}

// create claims the name, fills the file, and makes both durable. qemu-img would
// overwrite a file that is there, and ignores the wish for a mode.
func (im *Images) create(path string, fill func() error) error {
	f, err := os.OpenFile(path, os.O_CREATE|os.O_EXCL|os.O_WRONLY, 0o600)
	if errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("create image %s: %w", path, hypervisor.ErrExists)
	}
	if err != nil {
		return fmt.Errorf("create image: %w", noSpace(err, path))
	}
	_ = f.Close()
	if err := fill(); err != nil {
		_ = os.Remove(path) // ours: the exclusive open made it
		return fmt.Errorf("create image %s: %w", path, noSpace(err, path))
	}
	if err := syncAll(path); err != nil {
		_ = os.Remove(path)
		return fmt.Errorf("create image %s: %w", path, noSpace(err, path))
	}
	return nil
}

// Info describes a file. The format is probed, so of a raw disk this is what its
// guest wants it to look like: never open an image on the word of it.
func (im *Images) Info(ctx context.Context, path string) (hypervisor.ImageInfo, error) {
	return im.info(ctx, path, "")
}

type imageInfo struct {
	Filename            string `json:"filename"`
	Format              string `json:"format"`
	VirtualSize         int64  `json:"virtual-size"`
	ActualSize          int64  `json:"actual-size"`
	BackingFilename     string `json:"backing-filename"`
	FullBackingFilename string `json:"full-backing-filename"`
	BackingFormat       string `json:"backing-filename-format"`
	Encrypted           bool   `json:"encrypted"`
}

// info runs qemu-img info on one image; an empty format is probed. -U: it reads
// only the header, also of an image that a VM is writing to.
func (im *Images) info(ctx context.Context, path, format string) (hypervisor.ImageInfo, error) {
	args := []string{"info", "-U", "--output=json"}
	if format != "" {
		args = append(args, "-f", format)
	}
	if err := exists(path); err != nil {
		return hypervisor.ImageInfo{}, fmt.Errorf("describe image: %w", err)
	}
	ctx, cancel := bounded(ctx, path)
	defer cancel()
	out, err := im.run(ctx, im.img, append(args, fileName(path))...)
	if err != nil {
		return hypervisor.ImageInfo{}, fmt.Errorf("describe image %s: %w", path, err)
	}
	var i imageInfo
	if err := json.Unmarshal(out, &i); err != nil {
		return hypervisor.ImageInfo{}, fmt.Errorf("describe image %s: %w", path, err)
	}
	return hypervisor.ImageInfo{
		Path: path, Format: i.Format, VirtualSize: i.VirtualSize, DiskSize: i.ActualSize,
		Backing: absoluteBacking(path, i), Encrypted: i.Encrypted,
	}, nil
}

// absoluteBacking is the backing file's path. qemu-img resolves a relative one
// against the name that it was given (see fileName).
func absoluteBacking(path string, i imageInfo) string {
	backing := i.FullBackingFilename
	if backing == "" {
		backing = i.BackingFilename
	}
	if file, ok := strings.CutPrefix(backing, "file:"); ok && filepath.IsAbs(file) {
		return filepath.Clean(file) // our own prefix, carried over to a relative name
	}
	if backing == "" || filepath.IsAbs(backing) || i.FullBackingFilename != "" || strings.Contains(backing, ":") {
		return hypervisor.Location(backing) // a path, or nbd://… and the like
	}
	return filepath.Join(filepath.Dir(path), backing)
}

// checkChain walks the chain below an image and refuses what must not be opened:
// a backing file of unrecorded or unknown format, and encryption without a key.
func (im *Images) checkChain(ctx context.Context, image hypervisor.Image) ([]imageInfo, error) {
	ctx, cancel := context.WithTimeout(ctx, 2*networkPatience) // what lies below may be on the network
	defer cancel()
	out, err := im.run(ctx, im.img, "info", "-U", "--output=json", "--backing-chain", "-f", image.Format, fileName(image.Location))
	if err != nil {
		return nil, fmt.Errorf("describe chain of %s: %w", image.Location, err)
	}
	var chain []imageInfo
	if err := json.Unmarshal(out, &chain); err != nil {
		return nil, fmt.Errorf("describe chain of %s: %w", image.Location, err)
	}
	for _, layer := range chain {
		switch {
		case layer.Encrypted && image.Secret == "":
			return nil, fmt.Errorf("image %s is encrypted, and no secret is named", layer.Filename)
		case layer.BackingFilename != "" && !slices.Contains(formats, layer.BackingFormat):
			return nil, fmt.Errorf("image %s does not record that its backing file is qcow2, raw or luks (%q)", layer.Filename, layer.BackingFormat)
		}
	}
	return chain, nil
}

// Commit merges an overlay into its backing file. It may be repeated: the
// overlay keeps its content.
func (im *Images) Commit(ctx context.Context, overlay hypervisor.Image, o hypervisor.CommitOptions) error {
	n, chain, err := im.whole(ctx, overlay)
	if err != nil {
		return fmt.Errorf("merge layer: %w", err)
	}
	if len(chain) < 2 {
		return fmt.Errorf("merge layer %s: it has no backing file", overlay.Location)
	}
	// -d: leave the overlay as it is. Emptying it costs time and would make a
	// repeat after a crash impossible.
	args := append([]string{"commit", "-p", "-d"}, rate(o.Throttle)...)
	if err := im.runShowing(ctx, overlay.Secret, percent(chain[0].VirtualSize, o.Progress), append(args, n.String())...); err != nil {
		return fmt.Errorf("merge layer %s: %w", overlay.Location, noSpace(err, overlay.Location))
	}
	backing := absoluteBacking(overlay.Location, chain[0])
	if err := syncFile(backing); err != nil {
		return fmt.Errorf("merge layer %s: %w", overlay.Location, noSpace(err, backing))
	}
	return nil
}

// Rebase writes another backing file into the overlay's header and nothing else
// ("unsafe" in QEMU's words). That is right because the contract says that both
// hold the same content: the safe mode would compare them block by block to copy
// nothing, and needs the old one, which a merge has just made meaningless.
func (im *Images) Rebase(ctx context.Context, overlay, backing hypervisor.Image) error {
	if err := known(backing.Format); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay.Location, err)
	}
	over, err := im.info(ctx, overlay.Location, "qcow2")
	if err != nil {
		return fmt.Errorf("rebase layer: %w", err)
	}
	below, err := im.info(ctx, backing.Location, backing.Format)
	if err != nil {
		return fmt.Errorf("rebase layer: %w", err)
	}
	if below.VirtualSize > over.VirtualSize {
		return fmt.Errorf("rebase layer %s: new backing file has %d bytes, more than its own %d", overlay.Location, below.VirtualSize, over.VirtualSize)
	}
	n, err := alone(overlay)
	if err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay.Location, err)
	}
	if _, err := im.runKeyed(ctx, overlay.Secret, "rebase", "-q", "-u", "-F", backing.Format, "-b", backing.Location, n.String()); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay.Location, noSpace(err, overlay.Location))
	}
	if err := syncFile(overlay.Location); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay.Location, noSpace(err, overlay.Location))
	}
	return nil
}

// syncAll makes a file and its name durable.
func syncAll(path string) error {
	if err := syncFile(path); err != nil {
		return err
	}
	return syncFile(filepath.Dir(path))
}

// syncFile makes a file's or device's content durable. What lies on the network
// was flushed by the tool that wrote it.
func syncFile(path string) error {
	if _, ok := hypervisor.ParseNBD(path); ok {
		return nil
	}
	f, err := os.Open(path)
	if err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		_ = f.Close()
		return err
	}
	return f.Close()
}

// noSpace gives the code to an error that comes from a full file system.
func noSpace(err error, path string) error {
	if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
		return backstay.Errorf(backstay.CodeNoSpace, "no room for %s", path).Because(err)
	}
	return err
}
