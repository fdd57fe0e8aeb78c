package pull

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
	"github.com/backstay/backstay/internal/quiesce"
)

// Request asks for a session.
type Request struct {
	Job   backstay.JobID
	Point backstay.PointID
	VM    backstay.VMID
	Disks []backstay.DiskTarget
	// Vault is the id of the vault that the point goes to, and Parent its newest
	// point of the VM there, "" for none: the changes are wanted relative to it.
	Vault  string
	Parent backstay.PointID
	// Wish, Fallback and Guest say how consistent the point is to be.
	Wish     backstay.Consistency
	Fallback []backstay.Consistency
	Guest    backstay.GuestRules
	// OnInstant is called once everything is prepared. It may be nil.
	OnInstant func()
}

// Begin opens the disks of a VM for reading as they are at one instant: from
// its QEMU if it runs, from the image files if it is shut off. What an earlier
// session of the VM left is mended first. CodeConflict if another tool's backup
// job runs, which is left alone; CodeNoSpace if there is no room for scratch images.
func (p *Puller) Begin(ctx context.Context, q Request) (*Session, error) {
	if err := p.Settle(ctx, q.VM); err != nil {
		return nil, err
	}
	domain, err := p.hv.Domain(ctx, q.VM)
	if err != nil {
		return nil, fmt.Errorf("read definition: %w", err)
	}
	disks, err := choose(&domain.VM, q.Disks)
	if err != nil {
		return nil, err
	}
	if domain.VM.State == backstay.VMShutOff {
		return p.beginOffline(ctx, q, domain, disks)
	}
	s, err := p.beginLive(ctx, q, domain, disks)
	if err != nil {
		return nil, pullError(&domain.VM, err)
	}
	return s, nil
}

// choose returns the wanted disks, or says why one cannot be read.
func choose(vm *backstay.VM, wanted []backstay.DiskTarget) ([]backstay.Disk, error) {
	if reason := vm.Obstacle(backstay.MethodPull); reason != "" {
		return nil, backstay.Errorf(backstay.CodeNoDisks, "%s cannot be backed up", vm.Name).Becausef("%s", reason)
	}
	var chosen []backstay.Disk
	for _, target := range wanted {
		found := false
		for _, d := range vm.Disks {
			if d.Target != target {
				continue
			}
			if d.Reason != "" {
				return nil, backstay.Errorf(backstay.CodeDiskNotPossible, "disk %s of %s cannot be backed up", target, vm.Name).Becausef("%s", d.Reason)
			}
			chosen, found = append(chosen, d), true
		}
		if !found {
			return nil, backstay.Errorf(backstay.CodeDiskNotPossible, "%s has no disk %s", vm.Name, target)
		}
	}
	if len(chosen) == 0 {
		return nil, backstay.Errorf(backstay.CodeNoDisks, "%s has no disk to back up", vm.Name)
	}
	return chosen, nil
}

// pullError gives an error its code, unless it has one.
func pullError(vm *backstay.VM, err error) error {
	var coded *backstay.Error
	switch {
	case errors.As(err, &coded), errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		return err
	case errors.Is(err, hypervisor.ErrBusy):
		return conflict(vm, err)
	case errors.Is(err, hypervisor.ErrAway):
		return backstay.Errorf(backstay.CodeHostAway, "the hypervisor of %s does not answer", vm.Name).Because(err)
	case errors.Is(err, hypervisor.ErrNotRunning):
		return backstay.Errorf(backstay.CodeSnapshotFailed, "%s was shut off while its backup began", vm.Name).Because(err).Do("retry the job")
	}
	return backstay.Errorf(backstay.CodeSnapshotFailed, "the disks of %s could not be served by its QEMU", vm.Name).Because(err)
}

func conflict(vm *backstay.VM, err error) error {
	return backstay.Errorf(backstay.CodeConflict, "another job runs on %s", vm.Name).Because(err).
		Do("wait until it has ended, or end it with the tool that began it; backstay does not")
}

// beginLive lets QEMU serve the disks.
func (p *Puller) beginLive(ctx context.Context, q Request, domain hypervisor.Domain, disks []backstay.Disk) (s *Session, err error) {
	if job, runs, err := p.hv.Pulling(ctx, q.VM); err != nil {
		return nil, err
	} else if runs {
		return nil, conflict(&domain.VM, errors.New(job.What))
	}
	r, err := p.load(q.VM)
	if err != nil {
		return nil, err
	}
	checkpoints, err := p.hv.Checkpoints(ctx, q.VM)
	if err != nil {
		return nil, err
	}
	s = &Session{puller: p, record: r, Domain: domain}
	for _, d := range disks {
		b := r.basisOf(q, d, domain.Chains[d.Target], checkpoints)
		s.Disks = append(s.Disks, &Disk{Target: d.Target, Size: d.Size, Format: d.Format, Reason: b.reason, since: b.since, secret: d.Secret, source: d})
	}
	p.setOpen(q.VM, true) // what it makes is no leftover
	if err := s.prepare(ctx, q); err != nil {
		return nil, errors.Join(err, s.end(ctx))
	}
	if err := s.serve(ctx, q); err != nil {
		return nil, errors.Join(err, s.end(ctx))
	}
	if err := s.connect(ctx); err != nil {
		return nil, errors.Join(s.why(err), s.end(ctx))
	}
	return s, nil
}

// prepare journals what will be made, then makes it: the socket's folder and
// the scratch images. Everything slow comes before the instant.
func (s *Session) prepare(ctx context.Context, q Request) error {
	if err := s.puller.checkRoom(s.Disks); err != nil {
		return err
	}
	id := strings.ToLower(rand.Text()[:8])
	j := &sessionJournal{Job: q.Job, Point: q.Point, Folder: filepath.Join(s.puller.sockets, "pull-"+id)}
	j.Socket = filepath.Join(j.Folder, "nbd")
	if len(j.Socket) > maxSocketPath {
		return fmt.Errorf("the path of socket %s has more than %d bytes", j.Socket, maxSocketPath)
	}
	for _, d := range s.Disks {
		name := fmt.Sprintf("%s-%s.backstay-scratch-%s.qcow2", plain(s.Domain.VM.Name), d.Target, id)
		d.scratch = filepath.Join(s.puller.scratchFolder(d.source.Source), name)
		j.Scratch = append(j.Scratch, d.scratch)
	}
	// Only the parent's checkpoint can be of use; the others are dropped with
	// whatever failed attempts left.
	if b := s.record.binding(q.Parent); b != nil {
		s.record.Bindings = []binding{*b}
	} else {
		s.record.Bindings = nil
	}
	s.record.Session = j
	if err := s.record.write(); err != nil {
		return err
	}
	if err := s.puller.dropStale(ctx, s.record); err != nil {
		return err
	}
	if err := makeSocketFolder(j.Folder, s.Domain.LiveXML); err != nil {
		return err
	}
	for _, d := range s.Disks {
		if err := s.puller.makeScratch(ctx, d); err != nil {
			return fmt.Errorf("make scratch image of disk %s: %w", d.Target, err)
		}
	}
	return nil
}

// plain makes a file name of a VM's name.
func plain(name string) string {
	return strings.Map(func(r rune) rune {
		if r < ' ' || strings.ContainsRune(`/\:*?"<>| `, r) {
			return '_'
		}
		return r
	}, strings.TrimLeft(name, "."))
}

// serve makes the instant. A bitmap that proves to be broken costs a second
// trial, without changes and with a checkpoint of its own.
func (s *Session) serve(ctx context.Context, q Request) error {
	if q.OnInstant != nil {
		q.OnInstant()
	}
	request, err := s.bind(q, 1)
	if err != nil {
		return err
	}
	err = s.instant(ctx, q, request)
	if !errors.Is(err, hypervisor.ErrCheckpoint) {
		return err
	}
	s.puller.log.Warn("the changes since a checkpoint cannot be told", "vm", s.Domain.VM.Name, "error", err)
	for _, d := range s.Disks {
		if d.since != "" {
			d.Reason, d.Lost, d.since = fmt.Sprintf("the dirty bitmap of checkpoint %s is missing or broken", d.since), true, ""
		}
	}
	if request, err = s.bind(q, 2); err != nil {
		return err
	}
	if err := s.puller.dropStale(ctx, s.record); err != nil {
		return err
	}
	return s.instant(ctx, q, request)
}

// instant begins the job while the guest is held still, and says in the session
// how consistent that is.
func (s *Session) instant(ctx context.Context, q Request, request hypervisor.PullRequest) error {
	owe := func(d quiesce.Debt) error {
		if s.record.Session.Owed = nil; d.Owed() {
			s.record.Session.Owed = &d
		}
		return s.record.write()
	}
	held, err := quiesce.Begin(ctx, s.puller.hv, quiesce.Request{
		VM: s.Domain.VM, Wish: q.Wish, Fallback: q.Fallback, Rules: q.Guest, Journal: owe, Log: s.puller.log,
		Guard: func(ctx context.Context) (quiesce.Guard, error) { return s.puller.guards.Start(ctx, q.VM) },
	})
	if err != nil {
		return err
	}
	if err := held.Hold(ctx, false); err != nil {
		return err
	}
	if err := s.puller.hv.BeginPull(ctx, q.VM, request); err != nil {
		return errors.Join(err, held.Abandon(context.WithoutCancel(ctx)))
	}
	held.Switched()
	held.LetGo(context.WithoutCancel(ctx))
	s.Outcome, err = held.Finish(context.WithoutCancel(ctx))
	return errors.Join(err, owe(quiesce.Debt{}))
}

// bind records which checkpoint the point will have, then asks for it.
func (s *Session) bind(q Request, attempt int) (hypervisor.PullRequest, error) {
	id := strings.TrimSuffix(strings.TrimPrefix(filepath.Base(s.record.Session.Folder), "pull-"), "/")
	b := binding{
		Checkpoint: fmt.Sprintf("%s%s-%s-%d", backstay.CheckpointPrefix, q.Point, id, attempt),
		Point:      q.Point, Vault: q.Vault, Disks: map[backstay.DiskTarget]diskRecord{},
	}
	r := hypervisor.PullRequest{Socket: s.record.Session.Socket}
	for _, d := range s.Disks {
		p := hypervisor.PullDisk{Target: d.Target, Scratch: d.scratch, Since: d.since, Secret: d.secret, Mark: d.Format == "qcow2"}
		if p.Mark {
			b.Disks[d.Target] = diskRecord{Size: d.Size, Chain: s.Domain.Chains[d.Target]}
			r.Checkpoint = b.Checkpoint
		}
		r.Disks = append(r.Disks, p)
	}
	kept := s.record.Bindings[:0:0]
	for _, old := range s.record.Bindings {
		// A broken one is of no use to anybody, and one of this very point was
		// never stored: the vault would have said so.
		if old.Point != q.Point && attempt == 1 {
			kept = append(kept, old)
		}
	}
	if s.record.Bindings = kept; r.Checkpoint != "" {
		s.record.Bindings = append(kept, b)
	}
	return r, s.record.write()
}

// makeSocketFolder makes a folder that only root and the VM's QEMU can enter.
func makeSocketFolder(folder, liveXML string) error {
	parent := filepath.Dir(folder)
	if err := os.MkdirAll(parent, 0o711); err != nil {
		return fmt.Errorf("make the folder of sockets: %w", err)
	}
	if err := os.Mkdir(folder, 0o700); err != nil {
		return fmt.Errorf("make the folder of the socket: %w", err)
	}
	if uid, gid, ok := qemuUser(liveXML); ok && uid != os.Getuid() {
		if err := os.Chown(folder, uid, gid); err != nil {
			return fmt.Errorf("give the folder of the socket to QEMU: %w", err)
		}
	}
	return nil
}
