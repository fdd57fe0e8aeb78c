package host

import (
	"context"
	"errors"
	"io"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

// Machines starts small machines. The caller closes what it returns.
type Machines func(ctx context.Context, need guest.Need) (Machine, error)

// Machine is a small machine, as *guest.Machine.
type Machine interface {
	machineVolumes
	machineFiles
	Ended() <-chan struct{}
	Close() error
}

type machineVolumes interface {
	Attach(ctx context.Context, d guest.Disk) error
	Scan(ctx context.Context) (wire.Scanned, error)
	Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error)
}

type machineFiles interface {
	List(ctx context.Context, q wire.ListRequest) (wire.Folder, error)
	Stat(ctx context.Context, q wire.PathRequest) (backstay.FileEntry, error)
	Read(ctx context.Context, q wire.ReadRequest) (io.ReadCloser, error)
	Take(ctx context.Context, q wire.TakeRequest) (io.ReadCloser, error)
	lister
}

// PoolMachines are those of a pool.
func PoolMachines(p *guest.Pool) Machines {
	return func(ctx context.Context, need guest.Need) (Machine, error) {
		m, err := p.Machine(ctx, need)
		if err != nil {
			return nil, err
		}
		return m, nil
	}
}

// openMachine starts the session's small machine, plugs the disks in, and opens what
// the point's own keys open.
func (s *fileSession) openMachine(ctx context.Context, progress mover.Progress) error {
	if s.machines == nil {
		return backstay.Errorf(backstay.CodeUnfit, "files of a point cannot be read on this host").
			Becausef("its mover was started without small machines").Do("see `backstay doctor`; whole disks can be had with `backstay restore disks`")
	}
	progress(mover.Report{Phase: "machine"})
	machine, err := s.machines(ctx, guest.Need{})
	if err != nil {
		return err
	}
	s.atEnd(machine.Close)
	s.mu.Lock()
	s.machine = machine
	disks := slices.Clone(s.opened.Disks)
	s.mu.Unlock()
	go s.watch(machine)
	for _, d := range disks {
		if err := s.plug(ctx, s.disks[d.Target], guest.Disk{Target: d.Target}); err != nil {
			return err
		}
	}
	return s.scan(ctx, progress)
}

// watch ends the session when its machine has ended by itself.
func (s *fileSession) watch(machine Machine) {
	select {
	case <-s.ctx.Done():
	case <-machine.Ended():
		s.close(backstay.Errorf(backstay.CodeMachineFailed, "session %s has ended", s.request.Session).Becausef("its small machine ended"))
	}
}

// plug serves an image to the machine, and nobody else.
func (s *fileSession) plug(ctx context.Context, image tier.Image, d guest.Disk) error {
	socket, err := s.serve(image)
	if err != nil {
		return err
	}
	d.Socket, d.Export, d.Size = socket, sessionExport, image.Size()
	return s.machine.Attach(ctx, d)
}

// inMachine calls work with the session's machine. What fails since a disk could not
// be read says so: inside, that was but an error of some disk.
func (s *fileSession) inMachine(ctx context.Context, work func(context.Context, Machine) error) error {
	return s.during(ctx, func(ctx context.Context) error {
		if s.machine == nil {
			return backstay.Errorf(backstay.CodeUsage, "session %s reads disks alone", s.request.Session).Becausef("it was opened without a small machine")
		}
		before := s.faults.Load()
		err := work(ctx, s.machine)
		var coded *backstay.Error
		if fault := s.faults.Load(); err != nil && fault != before && ctx.Err() == nil {
			if errors.As(fault.err, &coded) {
				return fault.err
			}
			return backstay.Errorf(vaultCode(fault.err, backstay.CodeVolumeUnread), "a disk of point %s could not be read", s.request.Point).Because(fault.err)
		}
		return err
	})
}

// Folder lists a folder, or tells of one file.
func (h *Host) Folder(ctx context.Context, r mover.FolderRequest) (page mover.FolderPage, err error) {
	s, err := h.files.find(r.Session)
	if err != nil {
		return page, err
	}
	path := wire.PathRequest{Volume: r.Volume, Path: r.Path}
	err = s.inMachine(ctx, func(ctx context.Context, m Machine) error {
		if r.Itself {
			entry, err := m.Stat(ctx, path)
			page.Entries = []backstay.FileEntry{entry}
			return err
		}
		folder, err := m.List(ctx, wire.ListRequest{PathRequest: path, After: r.After, Limit: r.Limit})
		page.Entries, page.Next = folder.Entries, folder.Next
		return err
	})
	if err != nil {
		return mover.FolderPage{}, err
	}
	return page, nil
}

// TakeFiles writes files and folders to w.
func (h *Host) TakeFiles(ctx context.Context, r mover.FileTakeRequest, w io.Writer) error {
	s, err := h.files.find(r.Session)
	if err != nil {
		return err
	}
	return s.inMachine(ctx, func(ctx context.Context, m Machine) error {
		stream, err := m.Take(ctx, wire.TakeRequest{Volume: r.Volume, Paths: r.Paths, Strip: r.Strip})
		return pass(w, stream, err)
	})
}

// readFile writes a range of a file to w.
func (s *fileSession) readFile(ctx context.Context, r mover.FileReadRequest, w io.Writer) error {
	return s.inMachine(ctx, func(ctx context.Context, m Machine) error {
		q := wire.ReadRequest{PathRequest: wire.PathRequest{Volume: r.Volume, Path: r.Path}, Offset: r.Offset, Length: r.Length}
		stream, err := m.Read(ctx, q)
		return pass(w, stream, err)
	})
}

// pass passes a stream on to w and closes it.
func pass(w io.Writer, stream io.ReadCloser, err error) error {
	if err != nil {
		return err
	}
	_, err = io.CopyBuffer(struct{ io.Writer }{w}, struct{ io.Reader }{stream}, make([]byte, 256<<10))
	return errors.Join(err, stream.Close())
}
