package host

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/volumes"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/pace"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot"
	"github.com/backstay/backstay/internal/tier/vault"
)

// sessionCache is how much of what was read of a vault each session keeps, in bytes: a
// chunk has up to 2 MiB, of which the small machine asks for a part after the other. What
// it has read once it keeps itself.
const sessionCache = 24 << 20

// openDisks opens the disks of the session's point in its tier.
func (s *fileSession) openDisks(ctx context.Context) error {
	if s.request.Tier == backstay.VaultTier {
		return s.openVaultDisks(ctx)
	}
	return s.openLayers(ctx)
}

func (s *fileSession) openVaultDisks(ctx context.Context) error {
	if s.request.Vault == nil {
		return backstay.Errorf(backstay.CodeInternal, "a session of the vault tier names no vault")
	}
	v, err := s.openVault(ctx, *s.request.Vault, vault.CacheBytes(sessionCache))
	if err != nil {
		return err
	}
	s.atEnd(v.Close)
	point, err := v.OpenPoint(ctx, s.request.Point)
	if err != nil {
		return err
	}
	wanted, err := s.wanted(point.Facts().Disks)
	if err != nil {
		return err
	}
	for _, d := range wanted {
		image, err := point.Disk(ctx, d.Target)
		if err != nil {
			return err
		}
		s.add(d, volumes.Ahead(s.ctx, image), nil)
	}
	s.keys(ctx, point.Definition())
	return nil
}

// openLayers opens disks in the snapshot tier. From here on nobody merges their
// layers, and who wants to is told of the session.
func (s *fileSession) openLayers(ctx context.Context) error {
	point, err := s.openPoint(ctx, s.request.Point)
	if err != nil {
		return err
	}
	var all []backstay.PointDisk
	for _, d := range point.Record.Disks {
		all = append(all, d.PointDisk)
	}
	wanted, err := s.wanted(all)
	if err != nil {
		return err
	}
	var layers []backstay.LayerID
	for _, d := range point.Disks {
		for _, l := range d.Chain {
			layers = append(layers, l.ID)
		}
	}
	if err := s.files.stand(s, layers, s.now()); err != nil {
		return err
	}
	s.mu.Lock()
	s.opened.Holds = s.holds(point)
	s.mu.Unlock()
	vm := point.Record.VM.UUID
	pace := &lazyPace{begin: func() *pace.Governor {
		_, governor, _ := s.pacer.reading(s.ctx, vm, s.pacer.limit(vm), func(mover.Report) {})
		return governor
	}}
	s.atEnd(pace.close)
	for _, d := range wanted {
		image, err := point.OpenDiskFor(ctx, d.Target, snapshot.Session{ID: s.request.Session, By: s.request.User, Until: s.request.Expires})
		if err != nil {
			return err
		}
		s.add(d, image, pace)
	}
	s.keys(ctx, point.Definition)
	return nil
}

// holds says what cannot be merged while the session is open.
func (s *fileSession) holds(point *snapshot.Point) string {
	return fmt.Sprintf("the layers of point %s of %s are not merged until %s, unless their room is needed",
		point.Record.ID, point.Record.VM.Name, s.request.Expires.UTC().Format(time.RFC3339))
}

// wanted are the disks that the session asks for. Without a word those that the point
// holds.
func (s *fileSession) wanted(disks []backstay.PointDisk) ([]backstay.PointDisk, error) {
	var wanted []backstay.PointDisk
	var missing []string
	for _, target := range s.request.Disks {
		if !slices.ContainsFunc(disks, func(d backstay.PointDisk) bool { return d.Target == target && d.Included }) {
			missing = append(missing, string(target))
		}
	}
	if len(missing) > 0 {
		return nil, backstay.Errorf(backstay.CodeDiskUnknown, "disk %s is not in point %s", strings.Join(missing, ", "), s.request.Point)
	}
	for _, d := range disks {
		if d.Included && (len(s.request.Disks) == 0 || slices.Contains(s.request.Disks, d.Target)) {
			wanted = append(wanted, d)
		}
	}
	return wanted, nil
}

// add makes a disk part of the session, which closes it.
func (s *fileSession) add(d backstay.PointDisk, image tier.Image, pace *lazyPace) {
	disk := &sessionDisk{Image: image, session: s, pace: pace}
	s.mu.Lock()
	s.disks[d.Target] = disk
	s.opened.Disks = append(s.opened.Disks, d)
	s.mu.Unlock()
	s.atEnd(disk.Close)
}

// sessionDisk is a disk of a session, read as fast as the guest allows.
type sessionDisk struct {
	tier.Image
	session *fileSession
	pace    *lazyPace // nil: no guest feels it

	use    sync.RWMutex // held for reading while the disk is read
	closed bool         // guarded by use
}

var errDiskClosed = errors.New("the session that read the disk has ended")

// ReadAt reads the disk.
func (d *sessionDisk) ReadAt(p []byte, off int64) (int, error) {
	d.use.RLock()
	defer d.use.RUnlock()
	if d.closed {
		return 0, errDiskClosed
	}
	governor, done := d.pace.begun()
	defer done()
	if governor == nil {
		return d.Image.ReadAt(p, off)
	}
	n, err := pacedImage{d.Image, d.session.ctx, governor}.ReadAt(p, off)
	if reason := governor.Err(); err != nil && reason != nil {
		// However slowly it reads, the guest feels it: the guest goes first (I12).
		go d.session.close(sessionEnded(d.session.request.Session, "%v", reason))
		return n, reason
	}
	return n, err
}

// Extents tells data from zeros.
func (d *sessionDisk) Extents(offset, length int64) ([]tier.Extent, error) {
	d.use.RLock()
	defer d.use.RUnlock()
	if d.closed {
		return nil, errDiskClosed
	}
	return d.Image.Extents(offset, length)
}

// Close closes the disk once nobody reads it any more.
func (d *sessionDisk) Close() error {
	d.use.Lock()
	defer d.use.Unlock()
	if d.closed {
		return nil
	}
	d.closed = true
	return d.Image.Close()
}

// paceIdle is after how long without a read nobody looks at the guest any more.
const paceIdle = 15 * time.Second

// lazyPace looks at a guest while a session reads from beside its disks, and not in
// the hours in which it does not.
type lazyPace struct {
	begin func() *pace.Governor

	mu     sync.Mutex
	now    *pace.Governor // guarded by mu; nil while nobody reads
	idle   *time.Timer    // guarded by mu
	reads  int            // guarded by mu: under way
	closed bool           // guarded by mu
}

// begun returns the governor of a read that begins, and what tells that the read is
// done. A nil pace has none.
func (p *lazyPace) begun() (governor *pace.Governor, done func()) {
	if p == nil {
		return nil, func() {}
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.closed {
		return nil, func() {}
	}
	if p.now == nil {
		p.now = p.begin()
		p.idle = time.AfterFunc(paceIdle, p.rest)
	}
	p.idle.Reset(paceIdle)
	p.reads++
	return p.now, func() {
		p.mu.Lock()
		defer p.mu.Unlock()
		p.reads--
	}
}

// rest ends the looking until the next read.
func (p *lazyPace) rest() {
	p.mu.Lock()
	governor := p.now
	if p.reads > 0 && !p.closed {
		governor = nil
		p.idle.Reset(paceIdle)
	} else {
		p.now = nil
	}
	p.mu.Unlock()
	governor.Close()
}

func (p *lazyPace) close() error {
	p.mu.Lock()
	p.closed = true
	if p.idle != nil {
		p.idle.Stop()
	}
	p.mu.Unlock()
	p.rest()
	return nil
}
