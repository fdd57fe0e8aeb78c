package libvirt

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// mostPicture bounds a picture, in bytes: that of a display of 4096 × 2160 as PPM.
const mostPicture = 32 << 20

// Screenshot asks QEMU for a picture of the first display.
func (h *Host) Screenshot(ctx context.Context, id backstay.VMID) ([]byte, error) {
	picture, err := call(ctx, h, callPatience, func(l *libvirt.Libvirt) ([]byte, error) {
		d, err := lookup(l, id)
		if err != nil {
			return nil, err
		}
		xml, err := l.DomainGetXMLDesc(d, 0)
		if err != nil {
			return nil, err
		}
		root, err := parseDomain(xml)
		if err != nil {
			return nil, err
		}
		if video := find(root, "devices/video/model"); video == nil || attr(video, "", "type") == "none" {
			return nil, hypervisor.ErrNoDisplay
		}
		var b bounded
		if _, err = l.DomainScreenshot(d, &b, 0, 0); err != nil && strings.Contains(err.Error(), "no console") {
			return nil, errors.Join(hypervisor.ErrNoDisplay, err)
		}
		return b.Bytes(), err
	})
	if err != nil {
		return nil, fmt.Errorf("take a picture of VM %s: %w", id, err)
	}
	return picture, nil
}

// bounded takes no more than a picture.
type bounded struct{ bytes.Buffer }

func (b *bounded) Write(p []byte) (int, error) {
	if b.Len()+len(p) > mostPicture {
		return 0, errors.New("the picture is too big")
	}
	return b.Buffer.Write(p)
}
