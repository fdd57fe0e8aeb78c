package recover

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest"
	"github.com/backstay/backstay/internal/guest/volumes"
	"github.com/backstay/backstay/internal/guest/wire"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// FilesOptions describe how the files of a point are read. The zero value is right.
type FilesOptions struct {
	// Parts is the folder of what small machines start from; "" looks for it.
	Parts string
	// Dir is where a folder for sockets and for what the machine writes is made; ""
	// means that of the system for what may be large.
	Dir string

	start starter // starts a machine; nil starts a real one
}

// machine is a small machine with nothing plugged in, as *guest.Machine.
type machine interface {
	volumes.Machine
	Attach(ctx context.Context, d guest.Disk) error
	List(ctx context.Context, q wire.ListRequest) (wire.Folder, error)
	Stat(ctx context.Context, q wire.PathRequest) (backstay.FileEntry, error)
	Take(ctx context.Context, q wire.TakeRequest) (io.ReadCloser, error)
	Close() error
}

// starter starts a machine, which uses a folder, and returns what ends it.
type starter func(ctx context.Context, dir, parts string) (m machine, end func() error, err error)

// Files is a point whose disks are plugged into a small machine of ours: nobody else's
// code reads the file systems that its guest wrote.
type Files struct {
	point   Point
	machine machine
	volumes *volumes.Set
	dir     string // of the sockets

	ctx   context.Context // of what is served; ends with Close
	disks map[backstay.DiskTarget]tier.Image
	undo  []func() error // what ends it, last first; as count
	mu    sync.Mutex     // held while a volume is opened
	count int            // of images that were plugged in: before Find and Unlock are called, or with mu

	fault atomic.Pointer[error] // why a disk could not be read, the last time
}

// OpenFiles opens a point that Find returned in a small machine, and what its own keys
// open of its volumes. It needs QEMU and the parts of small machines on this computer,
// and no libvirt: CodeMachineFailed says what is missing. Close ends it.
func (v *Vault) OpenFiles(ctx context.Context, p Point, o FilesOptions) (_ *Files, err error) {
	point, err := v.open(ctx, p.ID)
	if err != nil {
		return nil, err
	}
	serving, stop := context.WithCancel(context.WithoutCancel(ctx))
	f := &Files{point: p, ctx: serving, disks: map[backstay.DiskTarget]tier.Image{}}
	f.atEnd(func() error { stop(); return nil })
	defer func() {
		if err != nil {
			err = errors.Join(f.explain(ctx, err), f.Close())
		}
	}()
	if f.dir, err = os.MkdirTemp(cmp.Or(o.Dir, roomyDir()), "backstay-files-"); err != nil {
		return nil, backstay.Errorf(backstay.CodeMachineFailed, "no small machine can be made").Because(err).
			Do("free space there, or name another folder with TMPDIR")
	}
	f.atEnd(func() error { return os.RemoveAll(f.dir) })
	start := o.start
	if start == nil {
		start = startMachine
	}
	var end func() error
	if f.machine, end, err = start(ctx, filepath.Join(f.dir, "machines"), o.Parts); err != nil {
		return nil, err
	}
	if err := f.openDisks(ctx, point); err != nil {
		return nil, errors.Join(err, end())
	}
	f.atEnd(end) // before what it reads
	if err := f.scan(ctx, point); err != nil {
		return nil, err
	}
	return f, nil
}

// roomyDir is a folder on a disk, if this system has one: what the machine writes, it
// writes to overlays there.
func roomyDir() string {
	if os.Getenv("TMPDIR") == "" {
		if s, err := os.Stat("/var/tmp"); err == nil && s.IsDir() {
			return "/var/tmp"
		}
	}
	return os.TempDir()
}

// startMachine starts a machine in a pool that ends with it.
func startMachine(ctx context.Context, dir, parts string) (machine, func() error, error) {
	if parts != "" {
		if _, err := os.Stat(filepath.Join(parts, "vmlinux")); err != nil {
			return nil, nil, backstay.Errorf(backstay.CodeMachineFailed, "the parts of small machines are not in %s", parts).Because(err).
				Do("name the folder machine of a release or of `make build`")
		}
	}
	pool, err := guest.NewPool(guest.Options{Run: dir, Parts: parts, Keep: -1, Most: 1, Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		return nil, nil, backstay.Errorf(backstay.CodeMachineFailed, "no small machine can be made").Because(err)
	}
	m, err := pool.Machine(ctx, guest.Need{})
	if err != nil {
		return nil, nil, errors.Join(err, pool.Close())
	}
	return m, pool.Close, nil
}

// openDisks plugs the point's disks in.
func (f *Files) openDisks(ctx context.Context, point *vault.Point) error {
	for _, target := range targets(point) {
		image, err := point.Disk(ctx, target)
		if err != nil {
			return err
		}
		image = volumes.Ahead(f.ctx, image)
		f.atEnd(image.Close)
		f.disks[target] = image
		if err := f.plug(ctx, image, guest.Disk{Target: target}); err != nil {
			return err
		}
	}
	return nil
}

// scan finds the volumes, and opens what the point's own keys open.
func (f *Files) scan(ctx context.Context, point *vault.Point) (err error) {
	f.volumes, err = volumes.Scan(ctx, volumes.Options{
		Point: f.point.ID, Machine: f.machine, Plug: f.plug, Log: slog.New(slog.DiscardHandler),
		Disk: func(target backstay.DiskTarget) tier.Image { return f.disks[target] },
		Turn: func(context.Context) (func(), error) { f.mu.Lock(); return f.mu.Unlock, nil },
	})
	if err != nil {
		return err
	}
	own := volumes.Keys(point.Definition(), func(s tier.Secret) (backstay.Secret, error) {
		if s.Scheme != backstay.SecretInPoint {
			return backstay.Secret{}, backstay.Errorf(backstay.CodeSecretMissing, "the point does not hold the value of secret %s", s.UUID)
		}
		return backstay.NewSecret(s.Value), nil
	})
	return f.volumes.OpenOwn(ctx, own, func() {})
}

// plug serves an image, read-only, at a socket that this user alone can open, and plugs
// it into the machine. One is plugged in at a time.
func (f *Files) plug(ctx context.Context, image tier.Image, d guest.Disk) error {
	f.count++
	d.Socket, d.Export, d.Size = filepath.Join(f.dir, strconv.Itoa(f.count)), "disk", image.Size()
	l, err := nbd.ListenUnix(d.Socket)
	if err != nil {
		return backstay.Errorf(backstay.CodeMachineFailed, "disk %s cannot be served to the small machine", d.Target).Because(err).
			Do("name a folder with a short path with TMPDIR")
	}
	ctxServe, stop := context.WithCancel(f.ctx)
	ended := make(chan error, 1)
	go func() {
		ended <- nbd.Serve(ctxServe, l, export(image, d.Export, func(err error) { f.fault.Store(&err) }))
	}()
	f.atEnd(func() error { stop(); return <-ended })
	return f.machine.Attach(ctx, d)
}

func (f *Files) atEnd(fn func() error) { f.undo = append(f.undo, fn) }

// Close ends the machine; nothing of it is left.
func (f *Files) Close() error {
	undo := f.undo
	f.undo = nil
	var errs []error
	for _, fn := range slices.Backward(undo) {
		errs = append(errs, fn())
	}
	return errors.Join(errs...)
}

// explain says of a call that failed whether that is because a disk could not be read:
// inside, that is but an error of some disk.
func (f *Files) explain(ctx context.Context, err error) error {
	fault := f.fault.Swap(nil)
	if err == nil || fault == nil || ctx.Err() != nil {
		return err
	}
	var coded *backstay.Error
	if errors.As(*fault, &coded) {
		return *fault
	}
	return backstay.Errorf(backstay.CodeVolumeUnread, "a disk of point %s could not be read", f.point.ID).Because(*fault)
}

// Volumes returns the volumes of the point.
func (f *Files) Volumes() []backstay.Volume { return f.volumes.All() }

// Unlock opens a locked volume. Errors: CodeUnknownVolume, CodeVolumeKey, CodeUsage for
// a kind of key that it does not take.
func (f *Files) Unlock(ctx context.Context, id backstay.VolumeID, kind backstay.VolumeKey, key backstay.Secret) error {
	return f.explain(ctx, f.volumes.Unlock(ctx, id, kind, key))
}

// Find returns what is at a path, as backstay.ResolveFile does.
func (f *Files) Find(ctx context.Context, path backstay.FilePath, last bool) (backstay.FileLocation, backstay.FileEntry, error) {
	at, entry, err := backstay.ResolveFile(f.Volumes(), func(at backstay.FileLocation) (backstay.FileEntry, error) {
		return f.machine.Stat(ctx, wire.PathRequest{Volume: at.Volume, Path: at.Path})
	}, path, last)
	return at, entry, f.explain(ctx, err)
}

// Folder lists a part of a folder, after the part whose next is given; next is "" when
// that was all.
func (f *Files) Folder(ctx context.Context, at backstay.FileLocation, after string) (entries []backstay.FileEntry, next string, err error) {
	page, err := f.machine.List(ctx, wire.ListRequest{PathRequest: wire.PathRequest{Volume: at.Volume, Path: at.Path}, After: after})
	return page.Entries, page.Next, f.explain(ctx, err)
}

// Take returns files and folders of one volume, with all that is in them, as a stream of
// items. The caller closes it.
func (f *Files) Take(ctx context.Context, volume backstay.VolumeID, paths []backstay.FilePath) (io.ReadCloser, error) {
	stream, err := f.machine.Take(ctx, wire.TakeRequest{Volume: volume, Paths: paths})
	if err != nil {
		return nil, f.explain(ctx, err)
	}
	return &takenItems{stream, ctx, f}, nil
}

// takenItems is a stream that says why it breaks off.
type takenItems struct {
	io.ReadCloser
	ctx   context.Context
	files *Files
}

func (t *takenItems) Read(p []byte) (int, error) {
	n, err := t.ReadCloser.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = fmt.Errorf("read point %s: %w", t.files.point.ID, t.files.explain(t.ctx, err))
	}
	return n, err
}
