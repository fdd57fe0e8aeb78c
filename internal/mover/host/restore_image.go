package host

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
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

// readsAsZeros tells whether an image does where nobody wrote. What a raw LUKS
// volume holds is decrypted also there, and reads as noise; a device holds what
// somebody left on it.
func readsAsZeros(image hypervisor.Image) bool {
	return image.Format != "luks" && !isDevice(image.Location)
}

// zeroIn writes zeros where a part of the content has them, into an image that
// does not read as zeros.
func zeroIn(ctx context.Context, to *nbd.Client, image hypervisor.Image, from tier.Image, part backstay.Range) error {
	if readsAsZeros(image) {
		return nil
	}
	extents, err := from.Extents(part.Offset, part.Length)
	if err != nil {
		return err
	}
	for _, e := range extents {
		for offset := e.Offset; e.Zero && offset < e.End(); offset += readBlock {
			if err := ctx.Err(); err != nil {
				return err
			}
			length := min(readBlock, e.End()-offset)
			if image.Format == "luks" { // a hole would not be zeros
				_, err = to.WriteAt(zeroBlock[:length], offset)
			} else {
				err = to.WriteZeroes(offset, length)
			}
			if err != nil {
				return err
			}
		}
	}
	return nil
}

// writeInto writes data into an image; where that reads as zeros already they are
// left out. It returns how many bytes were written.
func writeInto(to io.WriterAt, image hypervisor.Image, offset int64, data []byte) (int64, error) {
	if readsAsZeros(image) {
		return content.WriteNonZero(to, offset, data)
	}
	n, err := to.WriteAt(data, offset)
	return int64(n), err
}
