package host

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/volumes"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

// UnlockVolume opens a locked volume with a key that a user gave.
func (h *Host) UnlockVolume(ctx context.Context, r mover.UnlockRequest) ([]backstay.Volume, error) {
	s, err := h.files.find(r.Session)
	if err != nil {
		return nil, err
	}
	err = s.inMachine(ctx, func(ctx context.Context, _ Machine) error {
		return s.volumes.Unlock(ctx, r.Volume, r.Kind, r.Key)
	})
	if err != nil {
		return nil, err
	}
	return s.facts().Volumes, nil
}

// scan looks for the volumes of the disks that are plugged in, and opens what the
// point's own keys open.
func (s *fileSession) scan(ctx context.Context, progress mover.Progress) error {
	progress(mover.Report{Phase: "scan"})
	found, err := volumes.Scan(ctx, volumes.Options{
		Point: s.request.Point, Machine: s.machine, Plug: s.plug, Log: s.log.With("session", s.request.Session),
		Disk: func(target backstay.DiskTarget) tier.Image {
			if disk := s.disks[target]; disk != nil {
				return disk
			}
			return nil
		},
		// One at a time on the host, whatever session it is of.
		Turn: func(ctx context.Context) (func(), error) { return s.vms.lock(ctx, "volume keys") },
	})
	if err != nil {
		return err
	}
	s.mu.Lock()
	s.volumes = found
	s.mu.Unlock()
	return found.OpenOwn(ctx, s.own, func() { progress(mover.Report{Phase: "unlock"}) })
}

// keys remembers what of a point's definition may open its volumes.
func (s *fileSession) keys(ctx context.Context, definition tier.Definition) {
	book := s.secretBook(s.request.Services, nil)
	s.own = volumes.Keys(definition, func(secret tier.Secret) (backstay.Secret, error) {
		return book.valueOf(ctx, neededSecret{Secret: secret})
	})
}
