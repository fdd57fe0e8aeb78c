package pull

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/quiesce"
)

// beginOffline reads the images of a VM that is shut off. QEMU's locks keep
// anybody from writing to them meanwhile; a VM that was started before they hold
// has the images locked itself, and the session fails.
func (p *Puller) beginOffline(ctx context.Context, q Request, domain hypervisor.Domain, disks []backstay.Disk) (*Session, error) {
	s := &Session{puller: p, Domain: domain, Offline: true}
	s.Outcome = quiesce.Outcome{Consistency: backstay.CrashConsistent, Reason: "the VM was shut off; nothing was being written"}
	for _, d := range disks {
		disk := &Disk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: "the VM is shut off, and nobody serves its dirty bitmaps", secret: d.Secret, source: d}
		if q.Parent == "" {
			disk.Reason = "there is no earlier point"
		}
		s.Disks = append(s.Disks, disk)
		if err := s.openOffline(ctx, disk); err != nil {
			err = errors.Join(fmt.Errorf("open disk %s: %w", d.Target, err), s.end(ctx))
			if errors.Is(err, hypervisor.ErrLocked) {
				return nil, backstay.Errorf(backstay.CodeConflict, "a disk of %s is in use", domain.VM.Name).Because(err).
					Do("retry the job when whoever uses the image has ended; a VM that was started meanwhile is then read while it runs")
			}
			return nil, pullError(&domain.VM, err)
		}
	}
	return s, nil
}

func (s *Session) openOffline(ctx context.Context, d *Disk) error {
	from := hypervisor.ImageOf(d.source)
	export, err := s.puller.images.Export(ctx, from.Location, hypervisor.ExportOptions{Format: from.Format, Secret: from.Secret})
	if err != nil {
		return err
	}
	s.opened = append(s.opened, export.Close)
	client, err := nbd.Dial(ctx, export.Socket(), export.Name(), nbd.Options{})
	if err != nil {
		return err
	}
	// The connection goes first, the server last.
	s.opened[len(s.opened)-1] = func() error { return errors.Join(client.Close(), export.Close()) }
	if client.Size() != d.Size {
		return fmt.Errorf("it has %d bytes, and the VM's definition says %d", client.Size(), d.Size)
	}
	d.Image = &image{ctx: ctx, session: s, client: client, size: d.Size}
	return nil
}
