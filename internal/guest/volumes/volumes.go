package volumes

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"slices"
	"strings"
	"sync"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/luks"
)

// Machine is the small machine that the disks are plugged into, as *guest.Machine.
type Machine interface {
	Scan(ctx context.Context) (wire.Scanned, error)
	Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error)
}

// Options are what a Set works on. All are needed.
type Options struct {
	Point   backstay.PointID
	Machine Machine
	// Disk returns a disk of the point; nil if it has none of this target.
	Disk func(target backstay.DiskTarget) tier.Image
	// Plug serves an image to the machine, and nobody else, as d.
	Plug func(ctx context.Context, image tier.Image, d guest.Disk) error
	// Turn waits until a key may be tried, and returns what ends that: one may cost a
	// GiB of memory.
	Turn func(ctx context.Context) (done func(), err error)
	Log  *slog.Logger
}

// Set are the volumes of a point. It is safe for concurrent use.
type Set struct {
	o Options

	mu    sync.Mutex
	all   []backstay.Volume // guarded by mu: as the last scan saw them, as are locks
	locks []wire.Lock       // guarded by mu
}

// Scan looks for the volumes of the disks that are plugged in.
func Scan(ctx context.Context, o Options) (*Set, error) {
	s := &Set{o: o}
	scanned, err := o.Machine.Scan(ctx)
	if err != nil {
		return nil, err
	}
	s.found(scanned)
	return s, nil
}

// All returns the volumes; of a nil Set there are none.
func (s *Set) All() []backstay.Volume {
	if s == nil {
		return nil
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	return slices.Clone(s.all)
}

// found remembers what a scan found.
func (s *Set) found(scanned wire.Scanned) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.all, s.locks = scanned.Volumes, scanned.Locks
}

func (s *Set) lock(id backstay.VolumeID) (wire.Lock, bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	for _, l := range s.locks {
		if l.Volume == id {
			return l, true
		}
	}
	return wire.Lock{}, false
}

// Unlock opens a locked volume with a key that a user gave; one that is open stays so.
// Errors: CodeUnknownVolume, CodeUsage for a kind of key that it does not take,
// CodeVolumeKey for a key that does not open it, CodeVolumeUnread.
func (s *Set) Unlock(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key backstay.Secret) error {
	all := s.All()
	i := slices.IndexFunc(all, func(v backstay.Volume) bool { return v.ID == id })
	if i < 0 {
		return backstay.Errorf(backstay.CodeUnknownVolume, "there is no volume %s in point %s", id, s.o.Point)
	}
	volume := all[i]
	if volume.Kind != backstay.VolumeLocked {
		return nil // somebody else opened it
	}
	if len(volume.Keys) > 0 && !slices.Contains(volume.Keys, kind) {
		return backstay.Errorf(backstay.CodeUsage, "volume %s cannot be opened with a %s", id, kind).Becausef("it takes %s", joined(volume.Keys))
	}
	err := s.unlock(ctx, volume, kind, key)
	if errors.Is(err, luks.ErrWrongKey) {
		return backstay.Errorf(backstay.CodeVolumeKey, "the %s does not open volume %s", kind, id).
			Becausef("it fits none of the volume's key slots")
	}
	return err
}

func joined[T ~string](all []T) string {
	var texts []string
	for _, one := range all {
		texts = append(texts, string(one))
	}
	return strings.Join(texts, ", ")
}

// OpenOwn opens what keys of the point's own open; trying is called before the keys are
// tried on a volume. What they do not open stays locked; a volume that is opened may
// hold others.
func (s *Set) OpenOwn(ctx context.Context, keys []backstay.Secret, trying func()) error {
	tried := map[backstay.VolumeID]bool{}
	for len(keys) > 0 && len(tried) < mostVolumes {
		all := s.All()
		i := slices.IndexFunc(all, func(v backstay.Volume) bool { return v.Kind == backstay.VolumeLocked && !tried[v.ID] })
		if i < 0 {
			return nil
		}
		tried[all[i].ID] = true
		lock, ok := s.lock(all[i].ID)
		if !ok {
			continue
		}
		if _, err := s.header(ctx, lock, all[i]); errors.Is(err, errNoHeader) {
			// What this process cannot open would need the key in the machine. Secrets which
			// the guest never had do not go there.
			continue
		}
		trying()
		if err := s.tryOwn(ctx, all[i], keys); err != nil {
			return err
		}
	}
	return nil
}

// tryOwn tries keys of the point's own on a volume. Its only error is that of ctx.
func (s *Set) tryOwn(ctx context.Context, v backstay.Volume, keys []backstay.Secret) error {
	for _, key := range keys {
		err := s.unlock(ctx, v, backstay.KeyPassphrase, key)
		if err == nil {
			s.o.Log.Info("a volume was opened with a key that its point holds", "volume", v.ID)
			return nil
		}
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if !errors.Is(err, luks.ErrWrongKey) && !backstay.IsCode(err, backstay.CodeVolumeKey) {
			s.o.Log.Info("a volume stays locked", "volume", v.ID, "error", err)
			return nil
		}
	}
	return nil
}

// errNoHeader: there is nothing that this process could open.
var errNoHeader = errors.New("it is opened in the small machine alone")

// unlock opens a volume: outside, where that can be done, and else in the machine.
func (s *Set) unlock(ctx context.Context, v backstay.Volume, kind backstay.VolumeKey, key backstay.Secret) error {
	done, err := s.o.Turn(ctx)
	if err != nil {
		return err
	}
	defer done()
	lock, ok := s.lock(v.ID)
	if !ok || kind == backstay.KeyRecovery {
		return s.unlockInside(ctx, v.ID, kind, key)
	}
	header, err := s.header(ctx, lock, v)
	if errors.Is(err, errNoHeader) {
		return s.unlockInside(ctx, v.ID, kind, key)
	}
	if err != nil {
		return backstay.Errorf(backstay.CodeVolumeUnread, "volume %s cannot be opened", v.ID).Because(err)
	}
	volumeKey, err := header.Unlock(ctx, key)
	if err != nil {
		return err
	}
	if lock.Length > 0 {
		if err := s.plugOpened(ctx, lock, header, volumeKey); !errors.Is(err, luks.ErrElsewhere) {
			return err
		}
	}
	return s.inside(ctx, wire.UnlockRequest{Volume: v.ID, VolumeKey: volumeKey.Reveal()})
}

// header reads the header of a locked volume. What the machine says of its place is not
// believed.
func (s *Set) header(ctx context.Context, lock wire.Lock, v backstay.Volume) (*luks.Volume, error) {
	var header *luks.Volume
	var err error
	switch disk := s.o.Disk(lock.Disk); {
	case lock.Length > 0 && (disk == nil || lock.Offset < 0 || lock.Offset > disk.Size() || lock.Length > disk.Size()-lock.Offset):
		return nil, fmt.Errorf("the small machine says that it lies at %d of disk %s, which has no such place", lock.Offset, lock.Disk)
	case lock.Length > 0:
		header, err = luks.Read(ctx, disk, lock.Offset, lock.Length)
	case len(lock.Header) > 0:
		header, err = luks.Parse(ctx, lock.Header, v.Size)
	default:
		return nil, errNoHeader
	}
	if errors.Is(err, luks.ErrNotLUKS) {
		return nil, errNoHeader
	}
	return header, err
}

// plugOpened decrypts a volume here and plugs it in as one more disk.
func (s *Set) plugOpened(ctx context.Context, lock wire.Lock, header *luks.Volume, volumeKey backstay.Secret) error {
	image, err := header.Open(s.o.Disk(lock.Disk), lock.Offset, volumeKey)
	if err != nil {
		return err
	}
	if err := s.o.Plug(ctx, image, guest.Disk{Target: lock.Disk, Opens: lock.Volume}); err != nil {
		return err
	}
	scanned, err := s.o.Machine.Scan(ctx)
	if err != nil {
		return err
	}
	s.found(scanned)
	return nil
}

// unlockInside opens a volume in the machine, with what the user gave.
func (s *Set) unlockInside(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key backstay.Secret) error {
	q := wire.UnlockRequest{Volume: id}
	switch kind {
	case backstay.KeyPassphrase:
		q.Passphrase = key.Reveal()
	case backstay.KeyFile:
		q.KeyFile = key.Reveal()
	case backstay.KeyRecovery:
		q.RecoveryKey = key.Reveal()
	default:
		return backstay.Errorf(backstay.CodeUsage, "there is no key of kind %q", kind)
	}
	return s.inside(ctx, q)
}

func (s *Set) inside(ctx context.Context, q wire.UnlockRequest) error {
	scanned, err := s.o.Machine.Unlock(ctx, q)
	if err != nil {
		return err
	}
	s.found(scanned)
	return nil
}
