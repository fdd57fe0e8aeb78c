// Package qemu makes, reads and merges disk images with QEMU's own tools:
// qemu-img for work on files, qemu-nbd to serve one over a unix socket. It
// implements hypervisor.Images.
//
// Every image is opened with the format that the caller names, and a backing
// file only if the image records its format: a guest that writes a qcow2 header
// onto its raw disk gains nothing. Images of other formats than qcow2 and raw,
// and encrypted ones, are not opened at all.
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
	// Img and NBD are the programs; empty means "qemu-img" and "qemu-nbd" in PATH.
	Img, NBD string
}

// Images is hypervisor.Images by QEMU's tools. All methods may be called
// concurrently.
type Images struct {
	img, nbd string
	dir      string // of this process: Options.Dir/exports-PID
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
	return &Images{img: o.Img, nbd: o.NBD, dir: filepath.Join(o.Dir, exportsPrefix+strconv.Itoa(os.Getpid()))}
}

// Create makes an empty image, durably. A crash in it can leave an unfinished
// file of that name, which only the caller's journal can tell from a finished one.
func (im *Images) Create(ctx context.Context, path, format string, size int64) error {
	if err := known(format); err != nil {
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
// file is not locked, so it may be in use by a running VM.
func (im *Images) CreateOverlay(ctx context.Context, o hypervisor.Overlay) error {
	path, backing, backingFormat := o.Path, o.Backing.Location, o.Backing.Format
	if err := known(backingFormat); err != nil {
		return fmt.Errorf("create overlay %s: %w", path, err)
	}
	info, err := im.info(ctx, backing, backingFormat)
	if err != nil {
		return fmt.Errorf("create overlay %s: %w", path, err)
	}
	return im.create(path, func() error {
		// -u: the backing file is named, not opened. Its size is given instead.
		_, err := im.run(ctx, im.img, "create", "-q", "-f", "qcow2", "-u", "-F", backingFormat, "-b", backing,
			"-o", "cluster_size=128k,extended_l2=on", fileName(path), strconv.FormatInt(info.VirtualSize, 10))
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
	if _, err := os.Stat(path); err != nil {
		return hypervisor.ImageInfo{}, fmt.Errorf("describe image: %w", err)
	}
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
	if backing == "" || filepath.IsAbs(backing) || i.FullBackingFilename != "" {
		return backing // a path, or nbd://… and the like
	}
	return filepath.Join(filepath.Dir(path), backing)
}

// checkChain walks the chain below an image and refuses what must not be opened:
// a backing file of unrecorded or unknown format, and encryption.
func (im *Images) checkChain(ctx context.Context, path, format string) ([]imageInfo, error) {
	out, err := im.run(ctx, im.img, "info", "-U", "--output=json", "--backing-chain", "-f", format, fileName(path))
	if err != nil {
		return nil, fmt.Errorf("describe chain of %s: %w", path, err)
	}
	var chain []imageInfo
	if err := json.Unmarshal(out, &chain); err != nil {
		return nil, fmt.Errorf("describe chain of %s: %w", path, err)
	}
	for _, layer := range chain {
		switch {
		case layer.Encrypted:
			return nil, fmt.Errorf("image %s is encrypted", layer.Filename)
		case layer.BackingFilename != "" && !slices.Contains(formats, layer.BackingFormat):
			return nil, fmt.Errorf("image %s does not record that its backing file is qcow2 or raw (%q)", layer.Filename, layer.BackingFormat)
		}
	}
	return chain, nil
}

// Commit merges an overlay into its backing file. It may be repeated: the
// overlay keeps its content.
func (im *Images) Commit(ctx context.Context, image hypervisor.Image, o hypervisor.CommitOptions) error {
	overlay := image.Location
	chain, err := im.checkChain(ctx, overlay, "qcow2")
	if err != nil {
		return fmt.Errorf("merge layer: %w", err)
	}
	if len(chain) < 2 {
		return fmt.Errorf("merge layer %s: it has no backing file", overlay)
	}
	// -d: leave the overlay as it is. Emptying it costs time and would make a
	// repeat after a crash impossible.
	args := append([]string{"commit", "-p", "-d", "-f", "qcow2"}, rate(o.Throttle)...)
	if err := im.runShowing(ctx, percent(chain[0].VirtualSize, o.Progress), append(args, fileName(overlay))...); err != nil {
		return fmt.Errorf("merge layer %s: %w", overlay, noSpace(err, overlay))
	}
	backing := absoluteBacking(overlay, chain[0])
	if err := syncFile(backing); err != nil {
		return fmt.Errorf("merge layer %s: %w", overlay, noSpace(err, backing))
	}
	return nil
}

// Rebase writes another backing file into the overlay's header and nothing else
// ("unsafe" in QEMU's words). That is right because the contract says that both
// hold the same content: the safe mode would compare them block by block to copy
// nothing, and needs the old one, which a merge has just made meaningless.
func (im *Images) Rebase(ctx context.Context, top, base hypervisor.Image) error {
	overlay, backing, backingFormat := top.Location, base.Location, base.Format
	if err := known(backingFormat); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay, err)
	}
	over, err := im.info(ctx, overlay, "qcow2")
	if err != nil {
		return fmt.Errorf("rebase layer: %w", err)
	}
	below, err := im.info(ctx, backing, backingFormat)
	if err != nil {
		return fmt.Errorf("rebase layer: %w", err)
	}
	if below.VirtualSize > over.VirtualSize {
		return fmt.Errorf("rebase layer %s: new backing file has %d bytes, more than its own %d", overlay, below.VirtualSize, over.VirtualSize)
	}
	if _, err := im.run(ctx, im.img, "rebase", "-q", "-u", "-f", "qcow2", "-F", backingFormat, "-b", backing, fileName(overlay)); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay, noSpace(err, overlay))
	}
	if err := syncFile(overlay); err != nil {
		return fmt.Errorf("rebase layer %s: %w", overlay, noSpace(err, overlay))
	}
	return nil
}

var formats = []string{"qcow2", "raw"}

func known(format string) error {
	if !slices.Contains(formats, format) {
		return fmt.Errorf("format %q is not one of qcow2 and raw", format)
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

func syncFile(path string) error {
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
