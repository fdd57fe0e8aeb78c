package libvirt

import (
	"context"
	"errors"
	"fmt"

	"github.com/beevik/etree"
	"github.com/digitalocean/go-libvirt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// CopyLive is libvirt's block copy into a file that exists, ended by a pivot.
func (h *Host) CopyLive(ctx context.Context, id backstay.VMID, c hypervisor.Copy, progress func(done, total int64)) error {
	if err := h.copyLive(ctx, id, c, progress); err != nil {
		return fmt.Errorf("copy disk %s of VM %s: %w", c.Target, id, err)
	}
	return nil
}

func (h *Host) copyLive(ctx context.Context, id backstay.VMID, c hypervisor.Copy, progress func(done, total int64)) error {
	pace := &pacer{throttle: c.Throttle}
	there := false
	err := h.do(ctx, callPatience, func(l *libvirt.Libvirt) (err error) {
		there, err = startCopy(l, id, c, pace)
		return err
	})
	if err != nil {
		return err
	}
	if !there {
		if err := h.follow(ctx, id, following{c.Target, true, pace, progress}); err != nil {
			if ctx.Err() != nil {
				return errors.Join(ctx.Err(), h.abort(ctx, id, c.Target))
			}
			return err
		}
		if err := h.pivot(ctx, id, c.Target); err != nil {
			return errors.Join(err, h.abort(ctx, id, c.Target))
		}
	}
	return h.do(context.WithoutCancel(ctx), callPatience, func(l *libvirt.Libvirt) error {
		d, err := lookup(l, id)
		if err != nil {
			return err
		}
		e, err := liveDisk(l, d, c.Target)
		if err != nil {
			return err
		}
		if source := location(e); !samePath(source, c.To.Location) {
			return fmt.Errorf("the VM uses %s: the copy failed", source)
		}
		h.settleChains(l, d, []backstay.DiskTarget{c.Target})
		return nil
	})
}

// startCopy starts the job or adopts the one that does just this; there tells
// that the VM is on the copy already.
func startCopy(l *libvirt.Libvirt, id backstay.VMID, c hypervisor.Copy, pace *pacer) (there bool, err error) {
	d, err := lookup(l, id)
	if err != nil {
		return false, err
	}
	e, err := liveDisk(l, d, c.Target)
	if err != nil {
		return false, err
	}
	if samePath(location(e), c.To.Location) {
		return true, nil
	}
	job, err := jobOf(l, d, c.Target)
	if err != nil {
		return false, err
	}
	if job.found {
		if job.kind == libvirt.DomainBlockJobTypeCopy && samePath(location(find(e, "mirror")), c.To.Location) {
			return false, nil
		}
		return false, errors.New("another block job runs on the disk")
	}
	xml, err := copyXML(c)
	if err != nil {
		return false, err
	}
	speed := []libvirt.TypedParam{{
		Field: libvirt.DomainBlockCopyBandwidth, Value: *libvirt.NewTypedParamValueUllong(pace.first()),
	}}
	// Of a persistent VM libvirt refuses a job that would not survive its end,
	// unless we say that we know.
	flags := libvirt.DomainBlockCopyReuseExt | libvirt.DomainBlockCopyTransientJob
	return false, l.DomainBlockCopy(d, string(c.Target), xml, speed, flags)
}

func copyXML(c hypervisor.Copy) (string, error) {
	doc := etree.NewDocument()
	disk := doc.CreateElement("disk")
	disk.CreateAttr("type", "file")
	format := c.To.Format
	if format == "luks" {
		format = "raw"
	}
	disk.CreateElement("driver").CreateAttr("type", format)
	disk.CreateElement("source").CreateAttr("file", c.To.Location)
	setSecret(disk, c.To.Secret)
	return doc.WriteToString()
}
