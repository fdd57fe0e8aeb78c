package host

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/content"
)

// imageOf is how the file of a planned disk is opened: with its secret, if it is
// encrypted on the host.
func imageOf(d backstay.PlannedDisk) hypervisor.Image {
	image := hypervisor.Image{Location: d.Path, Format: d.Format, Secret: d.Secret}
	if image.Format == "raw" && image.Secret != "" {
		image.Format = "luks"
	}
	return image
}

// createImage makes the file of a planned disk.
func createImage(ctx context.Context, images hypervisor.Images, d backstay.PlannedDisk) error {
	image := imageOf(d)
	if image.Secret != "" {
		return images.CreateEncrypted(ctx, image, d.Size)
	}
	return images.Create(ctx, image.Location, image.Format, d.Size)
}

// readsAsZeros tells whether a fresh image does. What a raw LUKS volume holds is
// decrypted also where nobody wrote, and reads as noise.
func readsAsZeros(image hypervisor.Image) bool { return image.Format != "luks" }

// zeroFirst writes zeros where the content to come has them, into a fresh image
// that does not read as zeros.
func zeroFirst(ctx context.Context, to io.WriterAt, image hypervisor.Image, from tier.Image) error {
	if readsAsZeros(image) {
		return nil
	}
	zeros := make([]byte, readBlock)
	for at := int64(0); at < from.Size(); at += extentWindow {
		extents, err := from.Extents(at, min(extentWindow, from.Size()-at))
		if err != nil {
			return err
		}
		for _, e := range extents {
			if !e.Zero {
				continue
			}
			for offset := e.Offset; offset < e.End(); offset += readBlock {
				if err := ctx.Err(); err != nil {
					return err
				}
				if _, err := to.WriteAt(zeros[:min(readBlock, e.End()-offset)], offset); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// writeInto writes data into a fresh image; what reads as zeros there already is
// left out. It returns how many bytes were written.
func writeInto(to io.WriterAt, image hypervisor.Image, offset int64, data []byte) (int64, error) {
	if readsAsZeros(image) {
		return content.WriteNonZero(to, offset, data)
	}
	n, err := to.WriteAt(data, offset)
	return int64(n), err
}
