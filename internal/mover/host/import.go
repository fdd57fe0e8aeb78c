package host

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/vault"
)

// imageFormats are those in which an image that belongs to no VM is read.
var imageFormats = []string{"qcow2", "raw", "vmdk", "vhdx"}

// LookAt says how image files would be read.
func (h *Host) LookAt(ctx context.Context, image backstay.ImageBackup) ([]backstay.ImageDisk, error) {
	disks := slices.Clone(image.Disks)
	for i := range disks {
		opened, err := h.openImage(ctx, &disks[i], image.Folders)
		if err != nil {
			return nil, err
		}
		if err := opened.Close(); err != nil {
			return nil, fmt.Errorf("close image %s: %w", disks[i].Path, err)
		}
	}
	return disks, nil
}

// openImage opens one image for reading and completes what is known of it. QEMU's
// locks keep anybody from writing to it until it is closed.
func (h *Host) openImage(ctx context.Context, d *backstay.ImageDisk, folders []string) (*imageFile, error) {
	path, err := placeOfImage(d.Path, folders)
	if err != nil {
		return nil, err
	}
	d.Path = path
	if d.Format, err = formatOfImage(*d); err != nil {
		return nil, err
	}
	if err := h.standsAlone(ctx, *d); err != nil {
		return nil, err
	}
	// Alone: what the header names below it would not be opened even if it were
	// changed since somebody looked.
	export, err := h.images.Export(ctx, d.Path, hypervisor.ExportOptions{Format: d.Format, Alone: true})
	if errors.Is(err, hypervisor.ErrLocked) {
		return nil, backstay.Errorf(backstay.CodeConflict, "the image %s is in use", d.Path).Because(err).
			Do("shut off the VM that writes to it, or protect that VM itself")
	}
	if err != nil {
		return nil, unfit(d.Path, err)
	}
	client, err := nbd.Dial(ctx, export.Socket(), export.Name(), nbd.Options{})
	if err != nil {
		return nil, errors.Join(unfit(d.Path, err), export.Close())
	}
	opened := &imageFile{ctx: ctx, export: export, client: client}
	if d.Size != 0 && d.Size != client.Size() {
		return nil, errors.Join(unfit(d.Path, fmt.Errorf("it had %d bytes when it was planned, and has %d now", d.Size, client.Size())), opened.Close())
	}
	if client.Size() <= 0 {
		return nil, errors.Join(unfit(d.Path, errors.New("it is empty")), opened.Close())
	}
	d.Size = client.Size()
	return opened, nil
}

// placeOfImage finds the file itself and sees that it lies where it may. Links are
// followed first: one in an allowed folder could lead anywhere.
func placeOfImage(path string, folders []string) (string, error) {
	if !filepath.IsAbs(path) {
		return "", unfit(path, errors.New("its path on the host does not start with a slash")).Do("give the whole path")
	}
	real, err := filepath.EvalSymlinks(path)
	gone := errors.Is(err, fs.ErrNotExist)
	if gone {
		real = filepath.Clean(path) // outside of the folders not even that it is missing is told
	} else if err != nil {
		return "", unfit(path, err)
	}
	allowed := len(folders) == 0 || slices.ContainsFunc(folders, func(folder string) bool {
		inside, err := filepath.EvalSymlinks(folder)
		return err == nil && (strings.HasPrefix(real, strings.TrimSuffix(inside, "/")+"/") || gone && strings.HasPrefix(real, strings.TrimSuffix(folder, "/")+"/"))
	})
	if !allowed {
		return "", backstay.Errorf(backstay.CodeNotAllowed, "the image %s may not be read with this token", path).
			Becausef("it lies in none of the host's pools").Do("put it into a pool, or use a token of an owner")
	}
	if gone {
		return "", unfit(path, errors.New("the host does not have it")).Do("name a file that the host has, or another --host")
	}
	info, err := os.Stat(real)
	if err != nil {
		return "", unfit(path, err)
	}
	if kind := info.Mode().Type(); kind != 0 && kind != os.ModeDevice {
		return "", unfit(path, errors.New("it is neither a file nor a block device"))
	}
	return real, nil
}

// formatOfImage is what the operator said, or what the file's first bytes say. A
// guest may have written these onto a raw disk: a file that is named as raw is not
// taken for anything else on their word.
func formatOfImage(d backstay.ImageDisk) (string, error) {
	if d.Format != "" && !slices.Contains(imageFormats, d.Format) {
		return "", unfit(d.Path, fmt.Errorf("%q is none of the formats %s", d.Format, strings.Join(imageFormats, ", ")))
	}
	if d.Format == "raw" {
		return "raw", nil
	}
	found, err := hypervisor.FileFormat(d.Path)
	if err != nil {
		return "", unfit(d.Path, err)
	}
	named := strings.ToLower(filepath.Ext(d.Path))
	switch {
	case d.Format != "" && d.Format != found:
		return "", unfit(d.Path, fmt.Errorf("it does not begin like a %s image", d.Format))
	case d.Format != "":
		return d.Format, nil
	case found == "luks":
		return "", unfit(d.Path, errors.New("it is encrypted, and nobody said with what: decrypt it, or say --format raw to store it as it is"))
	case found != "" && (named == ".raw" || named == ".img" || named == ".dd"):
		return "", unfit(d.Path, fmt.Errorf("it is named like a raw disk and begins like a %s image, which a guest may have written there; say --format", found))
	case found != "":
		return found, nil
	case named == ".qcow2" || named == ".vmdk" || named == ".vhdx":
		return "", unfit(d.Path, fmt.Errorf("it does not begin like a %s image; say --format raw if it is a plain disk", named[1:]))
	}
	return "raw", nil
}

// standsAlone refuses what needs another file or a key.
func (h *Host) standsAlone(ctx context.Context, d backstay.ImageDisk) error {
	if d.Format == "raw" {
		return nil
	}
	if err := hypervisor.SelfContained(d.Path, d.Format); err != nil {
		return unfit(d.Path, err)
	}
	info, err := h.images.Info(ctx, d.Path)
	if err != nil {
		return unfit(d.Path, err)
	}
	if info.Format != d.Format || info.Backing != "" || info.Encrypted {
		return unfit(d.Path, errors.New("it is encrypted, or not the single image that it seems to be"))
	}
	return nil
}

func unfit(path string, err error) *backstay.Error {
	return backstay.Errorf(backstay.CodeImageUnfit, "the image %s cannot be backed up", path).Because(err)
}

// imageFile is an image that is being read.
type imageFile struct {
	ctx    context.Context // bounds Extents, which has none of its own
	export hypervisor.Export
	client *nbd.Client
}

func (i *imageFile) Size() int64                             { return i.client.Size() }
func (i *imageFile) ReadAt(p []byte, off int64) (int, error) { return i.client.ReadAt(p, off) }
func (i *imageFile) Close() error                            { return errors.Join(i.client.Close(), i.export.Close()) }

func (i *imageFile) Extents(offset, length int64) ([]tier.Extent, error) {
	status, err := i.client.BlockStatus(i.ctx, nbd.BaseAllocation, offset, length)
	if err != nil {
		return nil, fmt.Errorf("read extents: %w", err)
	}
	extents := make([]tier.Extent, len(status))
	for n, s := range status {
		extents[n] = tier.Extent{Range: backstay.Range{Offset: s.Offset, Length: s.Length}, Zero: s.Flags&nbd.Zero != 0}
	}
	return extents, nil
}

// Import reads image files into a vault as a point of a VM that is not there.
func (h *Host) Import(ctx context.Context, r mover.ImportRequest, progress mover.Progress) (mover.Pulled, error) {
	unlock, err := h.vms.lock(ctx, pullKey(r.VM))
	if err != nil {
		return mover.Pulled{}, err
	}
	defer unlock()
	done, err := h.importImages(ctx, r, oneAtATime(progress))
	if err != nil {
		return mover.Pulled{}, transferError(ctx, r.Point, r.Vault.Name, err)
	}
	return done, nil
}

func (h *Host) importImages(ctx context.Context, r mover.ImportRequest, progress mover.Progress) (done mover.Pulled, err error) {
	progress(mover.Report{Phase: "transfer"})
	v, err := h.openVaultToWrite(ctx, r.Vault)
	if err != nil {
		return done, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	w, err := v.Begin(ctx, vault.WriteOptions{
		Gentle: true,
		Point:  r.Point, Parent: r.Parent, Packs: r.Packs, Avoid: r.Avoid, Now: h.now,
		OnPack:   func(id string) { progress(mover.Report{Pack: id}) },
		Progress: func(phase string, n, total int64) { progress(mover.Report{Phase: phase, Done: n, Total: total}) },
	})
	if backstay.IsCode(err, backstay.CodeExists) {
		return h.pulledBefore(ctx, v, mover.PullRequest{Point: r.Point, VM: r.VM})
	}
	if err != nil {
		return done, fmt.Errorf("begin transfer: %w", err)
	}
	defer w.Abort() // does nothing after a commit
	t := transferring{Host: h, writer: w}
	t.done.Modes = map[backstay.DiskTarget]string{}
	r.Image.Disks = slices.Clone(r.Image.Disks)
	for i := range r.Image.Disks {
		if err := t.image(ctx, &r.Image.Disks[i], r); err != nil {
			return done, err
		}
	}
	virt, err := h.imageVirt(ctx)
	if err != nil {
		return done, err
	}
	shape := imageShape(r, virt)
	shape.Host = h.name
	text, err := imageDefinition(shape)
	if err != nil {
		return done, err
	}
	record := importRecord(r, shape)
	point := factsOf(&record, mover.TransferRequest{
		Vault: r.Vault, Parent: r.Parent, Expires: r.Expires, Policy: r.Image.Policy, Host: h.name,
	})
	point.Disks = t.disks(point.Disks)
	committed, err := w.Commit(ctx, point, tier.Definition{InactiveXML: text})
	if err != nil {
		return done, fmt.Errorf("commit point: %w", err)
	}
	done = mover.Pulled{Taken: takenOf(&record), Transferred: t.done}
	done.Transferred.Head, done.Transferred.Disks = committed.Head, point.Disks
	done.Transferred.Stats.Requests = v.Requests()
	return done, nil
}

// image carries one image file. Nobody recorded what changed since the last time:
// everything is read and compared (I7).
func (t *transferring) image(ctx context.Context, d *backstay.ImageDisk, r mover.ImportRequest) (err error) {
	opened, err := t.openImage(ctx, d, r.Image.Folders)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, opened.Close()) }()
	stats, err := t.writer.WriteDisk(ctx, vault.DiskSource{Target: d.Target, Format: restoredFormat(d.Format), Image: opened})
	if err != nil {
		return fmt.Errorf("store image %s: %w", d.Path, err)
	}
	t.count(d.Target, stats, 0, false)
	t.done.Modes[d.Target] = stats.Mode
	if r.Parent != "" && strings.HasPrefix(stats.Mode, "full compare: no change map") {
		t.done.Modes[d.Target] = "full compare: nobody records what changes in an image file"
	}
	return nil
}

// restoredFormat is the format that a VM's disk gets which is made of an image.
func restoredFormat(format string) string {
	if format == "raw" {
		return "raw"
	}
	return "qcow2"
}

// importRecord is the point as one beside its disks would be recorded; it never is.
func importRecord(r mover.ImportRequest, shape backstay.VM) snapshot.PointRecord {
	record := snapshot.PointRecord{
		ID: r.Point, Job: r.Job, Time: r.Time, VM: shape.Ref(), Shape: shape, Parent: r.Parent,
		Consistency: backstay.CrashConsistent, Reason: "image files that nobody wrote to; what made them is not known",
	}
	for _, d := range r.Image.Disks {
		record.Disks = append(record.Disks, snapshot.RecordDisk{PointDisk: backstay.PointDisk{
			Target: d.Target, Size: d.Size, Format: restoredFormat(d.Format), Included: true,
		}})
	}
	return record
}
