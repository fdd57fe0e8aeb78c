package pull

import (
	"context"
	"errors"
	"fmt"
	"os"
	"sync"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/quiesce"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/snapshot/record"
)

// Session is a VM whose disks can be read as they were at one instant. End it
// with Close; what was read counts only if everything was read without error
// before that.
type Session struct {
	// Domain is the VM as it was just before the instant.
	Domain hypervisor.Domain
	Disks  []*Disk
	// Outcome is how consistent the instant is, and why.
	Outcome quiesce.Outcome
	// Offline: the VM was shut off, and its images are read themselves. It cannot
	// be started meanwhile.
	Offline bool

	puller *Puller
	record *vmRecord // nil offline
	opened []func() error

	stop    context.CancelFunc // of the watch; nil without one
	watched sync.WaitGroup
	mu      sync.Mutex
	cause   error // why the session was ended for the guest's sake; guarded by mu
}

// Disk is one disk of a session.
type Disk struct {
	Target backstay.DiskTarget
	Size   int64
	Format string
	Image  tier.Image
	// Changed is all that may differ from the parent, if HasMap; Reason says why
	// there is no such map, and Lost that there should have been one.
	Changed []backstay.Range
	HasMap  bool
	Lost    bool
	Reason  string

	source   backstay.Disk
	since    string // the checkpoint since which changes are told
	scratch  string
	secret   string
	reserved int64 // bytes of the scratch image that have room
}

// connect opens the exports and reads the change maps, and begins to watch.
func (s *Session) connect(ctx context.Context) error {
	s.watch(ctx)
	for _, d := range s.Disks {
		contexts := []string{nbd.BaseAllocation}
		if d.since != "" {
			contexts = append(contexts, hypervisor.PullContext(d.Target))
		}
		client, err := nbd.Dial(ctx, s.record.Session.Socket, string(d.Target), nbd.Options{Contexts: contexts})
		if err != nil {
			return fmt.Errorf("open disk %s: %w", d.Target, err)
		}
		s.opened = append(s.opened, client.Close)
		if client.Size() != d.Size {
			return fmt.Errorf("disk %s is served with %d bytes and has %d", d.Target, client.Size(), d.Size)
		}
		d.Image = &image{ctx: ctx, session: s, client: client, size: d.Size}
		if d.since == "" {
			continue
		}
		status, err := client.BlockStatus(ctx, hypervisor.PullContext(d.Target), 0, d.Size)
		if errors.Is(err, nbd.ErrNoContext) {
			d.Reason, d.Lost = "its QEMU does not tell what changed", true
			continue
		}
		if err != nil {
			return fmt.Errorf("read what changed of disk %s: %w", d.Target, err)
		}
		d.HasMap = true
		for _, e := range status {
			if e.Flags != 0 {
				d.Changed = append(d.Changed, backstay.Range{Offset: e.Offset, Length: e.Length})
			}
		}
	}
	return nil
}

// watch keeps room ahead of the scratch images, and ends the job before they
// have none: QEMU would let the guest's own write fail (I12).
func (s *Session) watch(ctx context.Context) {
	ctx, s.stop = context.WithCancel(context.WithoutCancel(ctx))
	s.watched.Go(func() {
		tick := time.NewTicker(watchEvery)
		defer tick.Stop()
		for n := 1; ; n++ {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			}
			err := s.room()
			if err == nil && n%stallEvery == 0 {
				err = s.stalled(ctx)
			}
			if err != nil {
				s.giveUp(ctx, err)
				return
			}
		}
	})
}

// room sees that every scratch image can go on growing, and that the guest's
// own images can.
func (s *Session) room() error {
	for _, d := range s.Disks {
		reserved, err := reserve(d.scratch, d.reserved, d.Size)
		d.reserved = reserved
		if errors.Is(err, syscall.ENOSPC) || errors.Is(err, syscall.EDQUOT) {
			return err
		}
		free, err := roomIn(s.puller.scratchFolder(d.source.Source))
		if err == nil && free < lowRoom {
			return fmt.Errorf("the file system of scratch image %s has %d MiB left", d.scratch, free>>20)
		}
	}
	return nil
}

// stalled tells whether QEMU paused the guest over a write that failed.
func (s *Session) stalled(ctx context.Context) error {
	stands, err := s.puller.hv.Stalled(ctx, s.Domain.VM.ID)
	if err == nil && stands {
		return errors.New("a write of the guest failed")
	}
	return nil // a hypervisor that is away cannot tell; the reads will
}

// giveUp ends the job for the guest's sake and lets the guest go on.
func (s *Session) giveUp(ctx context.Context, cause error) {
	vm := &s.Domain.VM
	s.mu.Lock()
	s.cause = backstay.Errorf(backstay.CodeNoSpace, "the backup of %s was ended so that its guest can go on", vm.Name).Because(cause).
		Do("free space beside the VM's disks, or back it up while it writes less; then retry the job")
	s.mu.Unlock()
	s.puller.log.Warn("a backup is ended for the guest's sake", "vm", vm.Name, "cause", cause)
	if err := s.puller.hv.EndPull(ctx, vm.ID, s.record.Session.Socket); err != nil {
		s.puller.log.Error("the backup job could not be ended", "vm", vm.Name, "error", err)
	}
	if _, err := s.puller.hv.Unstall(ctx, vm.ID); err != nil {
		s.puller.log.Error("the guest could not be resumed", "vm", vm.Name, "error", err)
	}
}

// why is the session's own reason for an error of reading, if it has one.
func (s *Session) why(err error) error {
	s.mu.Lock()
	defer s.mu.Unlock()
	if s.cause != nil {
		return s.cause
	}
	return err
}

// Close ends the session: connections, job, scratch images, socket. stored says
// that the vault has the point: from now on changes are told relative to it.
// The session's own failure to clean up is mended by the next Begin or Sweep.
func (s *Session) Close(ctx context.Context, stored bool) error {
	if stored && s.record != nil {
		b := s.record.Bindings
		s.record.Bindings = nil
		if n := len(b); n > 0 && b[n-1].Point == s.record.Session.Point {
			s.record.Bindings = b[n-1:]
		}
	}
	return s.end(ctx)
}

func (s *Session) end(ctx context.Context) error {
	ctx = context.WithoutCancel(ctx)
	if s.stop != nil {
		s.stop()
		s.watched.Wait()
	}
	var errs []error
	for _, end := range s.opened {
		errs = append(errs, end())
	}
	defer s.puller.setOpen(s.Domain.VM.ID, false)
	if s.record == nil || s.record.Session == nil {
		return errors.Join(errs...)
	}
	return errors.Join(append(errs, s.puller.clear(ctx, s.record))...)
}

// clear ends what a session's journal names, then the journal.
func (p *Puller) clear(ctx context.Context, r *vmRecord) error {
	j := r.Session
	err := p.hv.EndPull(ctx, r.VM, j.Socket)
	if err != nil && !errors.Is(err, hypervisor.ErrBusy) {
		return err // QEMU may still write to the scratch images
	}
	if _, err := p.hv.Unstall(ctx, r.VM); err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
		return err
	}
	for _, path := range j.Scratch {
		if err := record.RemoveFile(path); err != nil {
			return err
		}
	}
	if err := os.RemoveAll(j.Folder); err != nil {
		return fmt.Errorf("remove the folder of the socket: %w", err)
	}
	if err := p.dropStale(ctx, r); err != nil {
		return err
	}
	r.Session = nil
	return r.write()
}

// dropStale drops those of our checkpoints that belong to no point that may be
// built on. A bitmap that is broken, or whose VM does not run, is only forgotten.
func (p *Puller) dropStale(ctx context.Context, r *vmRecord) error {
	checkpoints, err := p.hv.Checkpoints(ctx, r.VM)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, c := range checkpoints {
		if !c.Ours() || r.keeps(c.Name) {
			continue
		}
		err := p.hv.DropCheckpoint(ctx, r.VM, c.Name, false)
		if errors.Is(err, hypervisor.ErrNotRunning) {
			continue // dropped when the VM runs again
		}
		if err != nil && !errors.Is(err, hypervisor.ErrAway) && !errors.Is(err, hypervisor.ErrBusy) {
			err = p.hv.DropCheckpoint(ctx, r.VM, c.Name, true)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// image is a served disk.
type image struct {
	ctx     context.Context // bounds Extents, which has none of its own
	session *Session
	client  *nbd.Client
	size    int64
}

func (i *image) Size() int64 { return i.size }

func (i *image) ReadAt(b []byte, off int64) (int, error) {
	n, err := i.client.ReadAt(b, off)
	if err != nil && n < len(b) && off+int64(n) < i.size {
		err = i.session.why(err)
	}
	return n, err
}

// Extents tells data from zeros as the images record it.
func (i *image) Extents(offset, length int64) ([]tier.Extent, error) {
	status, err := i.client.BlockStatus(i.ctx, nbd.BaseAllocation, offset, length)
	if err != nil {
		return nil, i.session.why(fmt.Errorf("read extents: %w", err))
	}
	extents := make([]tier.Extent, len(status))
	for n, e := range status {
		extents[n] = tier.Extent{Range: backstay.Range{Offset: e.Offset, Length: e.Length}, Zero: e.Flags&nbd.Zero != 0}
	}
	return extents, nil
}

// Close does nothing: the session owns the connection.
func (i *image) Close() error { return nil }
