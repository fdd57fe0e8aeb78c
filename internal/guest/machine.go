package guest

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"os"
	"strconv"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// Disk is a disk to plug into a machine. It is read over NBD, and never written.
type Disk struct {
	Target backstay.DiskTarget
	Socket string // a unix socket
	Export string
	Size   int64 // bytes
	// Opens is the volume of which it is the opened content; "" for a disk of the point.
	Opens backstay.VolumeID
}

// Machine is a small machine. Its methods may be called at once; each ends when its
// context does. When the machine has ended, whatever the reason, they fail with
// backstay.CodeMachineFailed.
type Machine struct {
	o       Options
	process *process
	monitor *monitor
	channel *channel
	forget  func() // tells the pool that the machine has ended; nil for none

	mu    sync.Mutex
	disks int  // that were plugged in; guarded by mu
	gone  bool // Close was called; guarded by mu
}

// start starts a machine and waits until it answers.
func start(ctx context.Context, o Options) (*Machine, error) {
	p, err := launch(o)
	if err != nil {
		return nil, failed(err, "")
	}
	m := &Machine{o: o, process: p}
	m.channel = newChannel(p.channel, p.shared, o.CallLimit, func(error) { p.kill() })
	if err := m.greet(ctx); err != nil {
		p.kill()
		return nil, m.reason(err)
	}
	go func() {
		<-p.ended
		m.channel.end(errEnded)
	}()
	return m, nil
}

// greet waits for the machine's first words.
func (m *Machine) greet(ctx context.Context) error {
	ctx, cancel := context.WithTimeout(ctx, m.o.BootLimit)
	defer cancel()
	stop := context.AfterFunc(ctx, m.process.kill)
	defer stop()
	var err error
	if m.monitor, err = newMonitor(ctx, m.process.monitor); err != nil {
		return errors.Join(ctx.Err(), err)
	}
	in := bufio.NewReaderSize(m.process.channel, 256<<10)
	f, err := wire.ReadFrame(in)
	if err != nil {
		return errors.Join(ctx.Err(), err)
	}
	var hello wire.Hello
	if f.Kind != wire.FrameReady || json.Unmarshal(f.Body, &hello) != nil || hello.Version != wire.Version {
		return errProtocol
	}
	go m.channel.read(in)
	go m.channel.pulse(m.o.CallLimit/10, m.o.CallLimit/5)
	return nil
}

// Close ends the machine and waits until nothing of it is left. It may be called
// twice.
func (m *Machine) Close() error {
	m.mu.Lock()
	m.gone = true
	m.mu.Unlock()
	m.process.kill()
	<-m.process.ended
	if m.forget != nil {
		m.forget()
	}
	return nil
}

// live bounds how long the machine runs from now on.
func (m *Machine) live(d time.Duration) {
	timer := time.AfterFunc(d, func() { m.channel.end(fmt.Errorf("it was ended after %v, which is the longest that one runs", d)) })
	go func() {
		<-m.process.ended
		timer.Stop()
	}()
}

// Ended is closed when the machine has ended.
func (m *Machine) Ended() <-chan struct{} { return m.process.ended }

// reason makes an error of the machine one that says what became of it; errors of
// a call stay as they are.
func (m *Machine) reason(err error) error {
	var coded *backstay.Error
	switch {
	case err == nil, errors.Is(err, io.EOF) && m.alive(), errors.As(err, &coded):
		return err
	case errors.Is(err, context.Canceled), errors.Is(err, context.DeadlineExceeded):
		if m.alive() {
			return err
		}
	}
	m.mu.Lock()
	gone := m.gone
	m.mu.Unlock()
	if gone {
		return backstay.Errorf(backstay.CodeMachineFailed, "the small machine was ended").Because(err)
	}
	return failed(err, m.process.lastWords())
}

func (m *Machine) alive() bool {
	select {
	case <-m.process.ended:
		return false
	case <-m.channel.ended:
		return false
	default:
		return true
	}
}

// failed is the error of a machine that failed, with the last it printed.
func failed(err error, words string) error {
	if words != "" {
		err = fmt.Errorf("%w; its last words: %s", err, words)
	}
	return backstay.Errorf(backstay.CodeMachineFailed, "the small machine failed").Because(err)
}

// Attach plugs a disk in and waits until the machine sees it.
func (m *Machine) Attach(ctx context.Context, d Disk) error {
	m.mu.Lock()
	m.disks++
	n := strconv.Itoa(m.disks)
	m.mu.Unlock()
	if err := m.plug(ctx, n, d); err != nil {
		return m.reason(fmt.Errorf("plug in disk %s: %w", d.Target, err))
	}
	_, err := callFor[struct{}](ctx, m, wire.OpAttached, wire.AttachedRequest{Serial: "d" + n, Disk: d.Target, Size: d.Size, Opens: d.Opens})
	return err
}

// plug makes QEMU's side of a disk: the NBD client, an overlay over it, and the
// device. QEMU gets both as open files, so it needs the right to none.
func (m *Machine) plug(ctx context.Context, n string, d Disk) error {
	socket, err := dialFile(ctx, d.Socket)
	if err != nil {
		return err
	}
	defer socket.Close()
	overlay, err := overlay(m.o.Run, d.Size)
	if err != nil {
		return err
	}
	defer overlay.Close()
	if err := m.monitor.runWith(ctx, socket, "getfd", map[string]any{"fdname": "s" + n}, nil); err != nil {
		return err
	}
	var set struct {
		FDSet int `json:"fdset-id"`
	}
	if err := m.monitor.runWith(ctx, overlay, "add-fd", nil, &set); err != nil {
		return err
	}
	nodes := []map[string]any{
		{"driver": "nbd", "node-name": "n" + n, "read-only": true, "export": d.Export,
			"server": map[string]any{"type": "fd", "str": "s" + n}},
		{"driver": "file", "node-name": "f" + n, "filename": fmt.Sprintf("/dev/fdset/%d", set.FDSet), "cache": map[string]any{"no-flush": true}},
		{"driver": "qcow2", "node-name": "o" + n, "file": "f" + n, "backing": "n" + n, "cache": map[string]any{"no-flush": true}},
	}
	for _, node := range nodes {
		if err := m.monitor.run(ctx, "blockdev-add", node, nil); err != nil {
			return err
		}
	}
	return m.monitor.run(ctx, "device_add", map[string]any{
		"driver": "scsi-hd", "id": "d" + n, "bus": "scsi.0", "drive": "o" + n, "serial": "d" + n,
		// What cannot be read or written is an error inside; the default stops the machine
		// when there is no room.
		"rerror": "report", "werror": "report",
	}, nil)
}

// dialFile connects to a unix socket and returns the connection as a file.
func dialFile(ctx context.Context, socket string) (*os.File, error) {
	var dialer net.Dialer
	conn, err := dialer.DialContext(ctx, "unix", socket)
	if err != nil {
		return nil, err
	}
	defer conn.Close()
	return conn.(*net.UnixConn).File()
}

// callFor makes a call and waits for its answer.
func callFor[R any](ctx context.Context, m *Machine, op string, q any) (R, error) {
	r, err := ask[R](ctx, m.channel, op, q)
	return r, m.reason(err)
}

// callChecked is callFor for an answer that may be nonsense. Then the machine is not what
// it was, and ends.
func callChecked[R any](ctx context.Context, m *Machine, op string, q any, check func(*R) error) (R, error) {
	r, err := ask[R](ctx, m.channel, op, q)
	if err == nil {
		if err = check(&r); err != nil {
			var none R
			r, err = none, fmt.Errorf("%w: %w", errProtocol, err)
			m.channel.end(err)
		}
	}
	return r, m.reason(err)
}

// Scan returns the volumes of the disks that are plugged in.
func (m *Machine) Scan(ctx context.Context) (wire.Scanned, error) {
	return callChecked(ctx, m, wire.OpScan, struct{}{}, checkScanned)
}

// Unlock opens a locked volume with a key, and returns what there is then.
func (m *Machine) Unlock(ctx context.Context, q wire.UnlockRequest) (wire.Scanned, error) {
	return callChecked(ctx, m, wire.OpUnlock, q, checkScanned)
}

// List returns a part of a folder.
func (m *Machine) List(ctx context.Context, q wire.ListRequest) (wire.Folder, error) {
	return callChecked(ctx, m, wire.OpList, q, checkFolder)
}

// Stat returns one file's entry.
func (m *Machine) Stat(ctx context.Context, q wire.PathRequest) (backstay.FileEntry, error) {
	return callChecked(ctx, m, wire.OpStat, q, checkEntry)
}

// Read returns bytes of a file. The context must last as long as they are read;
// what goes wrong on the way is an error of Read, never an early end.
func (m *Machine) Read(ctx context.Context, q wire.ReadRequest) (io.ReadCloser, error) {
	return m.stream(ctx, wire.OpRead, q)
}

// Take returns files and folders as items, as Read does bytes.
func (m *Machine) Take(ctx context.Context, q wire.TakeRequest) (io.ReadCloser, error) {
	return m.stream(ctx, wire.OpTake, q)
}

// Walk returns all files of a volume as rows, as Read does bytes.
func (m *Machine) Walk(ctx context.Context, q wire.WalkRequest) (io.ReadCloser, error) {
	return m.stream(ctx, wire.OpWalk, q)
}

// Inodes returns the inodes of a volume, as Read does bytes.
func (m *Machine) Inodes(ctx context.Context, q wire.InodesRequest) (io.ReadCloser, error) {
	return m.stream(ctx, wire.OpInodes, q)
}

// Hash returns the SHA-256 of some files of a volume.
func (m *Machine) Hash(ctx context.Context, q wire.HashRequest) (wire.Hashes, error) {
	return callFor[wire.Hashes](ctx, m, wire.OpHash, q)
}

func (m *Machine) stream(ctx context.Context, op string, q any) (io.ReadCloser, error) {
	s, err := open(ctx, m.channel, op, q)
	if err != nil {
		return nil, m.reason(err)
	}
	return reasoned{s, m}, nil
}

// reasoned is a stream whose errors say what became of the machine.
type reasoned struct {
	*stream
	m *Machine
}

func (r reasoned) Read(p []byte) (int, error) {
	n, err := r.stream.Read(p)
	if err == io.EOF {
		return n, err
	}
	return n, r.m.reason(err)
}
