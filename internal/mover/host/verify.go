package host

import (
	"context"
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"hash"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier"
)

const (
	verifyBlock   = 1 << 20   // bytes of one read
	verifyReaders = 4         // reads under way at a time
	extentWindow  = 256 << 20 // bytes of which extents are asked for at once
)

// Verify reads every disk of a point whole, through the decoder of its tier,
// and returns the SHA-256 of each.
func (h *Host) Verify(ctx context.Context, r mover.VerifyRequest, progress mover.Progress) (mover.Verified, error) {
	verified, err := h.verify(ctx, r, oneAtATime(progress))
	if err == nil {
		return verified, nil
	}
	var coded *backstay.Error
	if ctx.Err() != nil {
		return mover.Verified{}, fmt.Errorf("verify point %s: %w", r.Point, errors.Join(context.Cause(ctx), err))
	}
	if errors.As(err, &coded) {
		return mover.Verified{}, err
	}
	return mover.Verified{}, backstay.Errorf(vaultCode(err, backstay.CodeValidateFailed), "point %s could not be read from the %s tier", r.Point, r.Tier).Because(err)
}

// verifyDisk is one disk to be read.
type verifyDisk struct {
	target backstay.DiskTarget
	size   int64
}

// diskOpener opens a disk of the point that is verified.
type diskOpener func(context.Context, backstay.DiskTarget) (tier.Image, error)

func (h *Host) verify(ctx context.Context, r mover.VerifyRequest, progress mover.Progress) (mover.Verified, error) {
	disks, open, vm, err := h.verifySource(ctx, r)
	if err != nil {
		return mover.Verified{}, err
	}
	var governor *pace.Governor
	if r.Tier == backstay.SnapshotTier {
		ctx, governor, progress = h.pacer.reading(ctx, vm, h.pacer.limit(vm), progress)
		defer governor.Close()
		open = paced(open, governor)
	}
	var total, done int64
	for _, d := range disks {
		total += d.size
	}
	verified := mover.Verified{SHA256: map[backstay.DiskTarget]string{}}
	for _, d := range disks {
		read, sum, err := hashDisk(ctx, d, open, func(n int64) {
			done += n
			progress(mover.Report{Phase: "verify", Done: done, Total: total})
		})
		if err != nil {
			return mover.Verified{}, fmt.Errorf("read disk %s: %w", d.target, givenUp(governor, err))
		}
		verified.SHA256[d.target] = sum
		verified.Stats.BytesRead += read
	}
	return verified, nil
}

// verifySource finds the disks of the point in the wanted tier.
func (h *Host) verifySource(ctx context.Context, r mover.VerifyRequest) (disks []verifyDisk, open diskOpener, vm backstay.VMID, err error) {
	if r.Tier == backstay.VaultTier {
		if r.Vault == nil {
			return nil, nil, "", errors.New("verify in the vault tier: no vault is named")
		}
		v, err := h.openVault(ctx, *r.Vault)
		if err != nil {
			return nil, nil, "", err
		}
		point, err := v.OpenPoint(ctx, r.Point)
		if err != nil {
			return nil, nil, "", err
		}
		for _, d := range point.Facts().Disks {
			if d.Included {
				disks = append(disks, verifyDisk{d.Target, d.Size})
			}
		}
		return disks, point.Disk, point.Facts().VM.UUID, nil
	}
	point, err := h.openPoint(ctx, r.Point)
	if err != nil {
		return nil, nil, "", err
	}
	for _, d := range point.Disks {
		disks = append(disks, verifyDisk{d.Target, d.Size})
	}
	return disks, func(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
		return point.OpenDisk(ctx, target, r.Job)
	}, point.Record.VM.UUID, nil
}

// paced opens disks that are read as fast as the guest allows.
func paced(open diskOpener, governor *pace.Governor) diskOpener {
	return func(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
		image, err := open(ctx, target)
		if err != nil {
			return nil, err
		}
		return pacedImage{image, ctx, governor}, nil
	}
}

func hashDisk(ctx context.Context, d verifyDisk, open diskOpener, advanced func(int64)) (read int64, sum string, err error) {
	image, err := open(ctx, d.target)
	if err != nil {
		return 0, "", err
	}
	defer func() { err = errors.Join(err, image.Close()) }()
	if image.Size() != d.size {
		return 0, "", fmt.Errorf("it has %d bytes and not %d", image.Size(), d.size)
	}
	digest := sha256.New()
	for offset := int64(0); offset < d.size; offset += extentWindow {
		extents, err := image.Extents(offset, min(extentWindow, d.size-offset))
		if err != nil {
			return read, "", err
		}
		for _, e := range extents {
			if e.Zero {
				hashZeros(digest, e.Length)
				advanced(e.Length)
				continue
			}
			if err := hashData(ctx, image, e.Range, digest, advanced); err != nil {
				return read, "", err
			}
			read += e.Length
		}
	}
	return read, hex.EncodeToString(digest.Sum(nil)), nil
}

var zeroBlock [verifyBlock]byte

func hashZeros(digest hash.Hash, length int64) {
	for length > 0 {
		n := min(length, verifyBlock)
		digest.Write(zeroBlock[:n])
		length -= n
	}
}

// block is a read under way; err and data are valid once done is closed.
type block struct {
	data []byte
	err  error
	done chan struct{}
}

// hashData hashes a run of data in order, with a few reads ahead of it.
func hashData(ctx context.Context, image tier.Image, run backstay.Range, digest hash.Hash, advanced func(int64)) error {
	var ahead []*block
	defer func() {
		for _, b := range ahead {
			<-b.done
		}
	}()
	var spare [][]byte
	next := run.Offset
	for {
		for next < run.End() && len(ahead) < verifyReaders {
			b := &block{done: make(chan struct{})}
			if n := len(spare); n > 0 {
				b.data, spare = spare[n-1], spare[:n-1]
			} else {
				b.data = make([]byte, verifyBlock)
			}
			b.data = b.data[:min(verifyBlock, run.End()-next)]
			go b.read(image, next)
			next += int64(len(b.data))
			ahead = append(ahead, b)
		}
		if len(ahead) == 0 {
			return nil
		}
		b := ahead[0]
		<-b.done
		ahead = ahead[1:]
		if b.err != nil {
			return b.err
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		digest.Write(b.data)
		advanced(int64(len(b.data)))
		spare = append(spare, b.data[:cap(b.data)])
	}
}

func (b *block) read(image tier.Image, offset int64) {
	defer close(b.done)
	if n, err := image.ReadAt(b.data, offset); n < len(b.data) {
		b.err = fmt.Errorf("read %d bytes at %d: %w", len(b.data), offset, err)
	}
}
