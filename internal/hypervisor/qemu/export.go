package qemu

import (
	"bytes"
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"sync"
	"syscall"
	"time"

	"github.com/backstay/backstay/internal/hypervisor"
)

const (
	exportName     = "disk"
	exportsPrefix  = "exports-"
	maxSocketPath  = 107              // sun_path of Linux, without the zero
	defaultClients = 4                // hypervisor.ExportOptions.Connections
	stopPatience   = 10 * time.Second // for a server to flush and go
	stopAgain      = 20 * time.Millisecond
)

// export is one qemu-nbd.
type export struct {
	proc   *process
	socket string
	close  func() error
}

func (e *export) Socket() string { return e.socket }
func (e *export) Name() string   { return exportName }

// Close ends the server and removes its socket. A writable image is flushed by
// the server on its way out.
func (e *export) Close() error { return e.close() }

// Export serves an image. ctx bounds the start only; the server lives until
// Close or until this process dies.
func (im *Images) Export(ctx context.Context, path string, o hypervisor.ExportOptions) (hypervisor.Export, error) {
	e, err := im.export(ctx, path, o)
	if err != nil {
		return nil, fmt.Errorf("export image %s: %w", path, err)
	}
	return e, nil
}

func (im *Images) export(ctx context.Context, path string, o hypervisor.ExportOptions) (*export, error) {
	if err := carried(o.Format); err != nil {
		return nil, err
	}
	if err := exists(path); err != nil {
		return nil, err
	}
	if slices.Contains(foreign, o.Format) {
		if err := hypervisor.SelfContained(path, o.Format); err != nil {
			return nil, err
		}
	}
	image, err := im.served(ctx, hypervisor.Image{Location: path, Format: o.Format, Secret: o.Secret}, o.Alone)
	if err != nil {
		return nil, err
	}
	if err := os.MkdirAll(im.dir, 0o700); err != nil {
		return nil, err
	}
	base := filepath.Join(im.dir, strings.ToLower(rand.Text()[:10]))
	socket, pidFile := base+".sock", base+".pid"
	if len(socket) > maxSocketPath {
		return nil, fmt.Errorf("socket path %s has more than %d bytes: choose a shorter folder", socket, maxSocketPath)
	}
	clients := o.Connections
	if clients <= 0 {
		clients = defaultClients
	}
	args := []string{"--persistent", "--shared=" + strconv.Itoa(clients), "--allocation-depth", "--export-name=" + exportName,
		"--socket=" + socket, "--pid-file=" + pidFile}
	if o.Writable {
		args = append(args, "--discard=unmap", "--cache=writeback")
	} else {
		args = append(args, "--read-only")
	}
	key, err := im.keyFile(ctx, o.Secret)
	if err != nil {
		return nil, err
	}
	if key != nil {
		defer key.Close()
		args = append(args, secretArgs...)
	}
	proc, err := startWith(im.nbd, nil, key, append(args, image.String())...)
	if err != nil {
		return nil, err
	}
	e := &export{proc: proc, socket: socket, close: sync.OnceValue(func() error { return stop(proc, socket, pidFile) })}
	if err := e.ready(ctx, pidFile); err != nil {
		_ = e.Close()
		return nil, noSpace(err, path)
	}
	return e, nil
}

// served describes the image that is to be exported.
func (im *Images) served(ctx context.Context, image hypervisor.Image, only bool) (*node, error) {
	if only || image.Format != "qcow2" {
		return alone(image)
	}
	n, _, err := im.whole(ctx, image)
	return n, err
}

// ready waits until the server listens: it writes its pid file right after. A
// trial connection would take one of the clients' places.
func (e *export) ready(ctx context.Context, pidFile string) error {
	tick := time.NewTicker(2 * time.Millisecond)
	defer tick.Stop()
	for {
		if _, err := os.Stat(pidFile); err == nil {
			return nil
		}
		select {
		case <-tick.C:
		case <-ctx.Done():
			return ctx.Err()
		case <-e.proc.done:
			if err := e.proc.failure(); err != nil {
				return err
			}
			return errEnded
		}
	}
}

// stop ends a server: politely, so that it flushes, then by force. qemu-nbd
// forgets a signal that comes before it is in its main loop, so it is told again.
func stop(p *process, files ...string) error {
	again := time.NewTicker(stopAgain)
	defer again.Stop()
	patience := time.NewTimer(stopPatience)
	defer patience.Stop()
	var err error
	for ended := false; !ended; {
		_ = p.cmd.Process.Signal(syscall.SIGTERM)
		select {
		case <-p.done:
			ended = true
		case <-again.C:
		case <-patience.C:
			_ = p.cmd.Process.Kill()
			<-p.done
			ended, err = true, errors.New("stop nbd server: it did not end by itself and was killed")
		}
	}
	for _, f := range files {
		if e := os.Remove(f); e != nil && !os.IsNotExist(e) && err == nil {
			err = fmt.Errorf("remove socket: %w", e)
		}
	}
	return err
}

// sweep removes the sockets of processes that are no more.
func sweep(dir string) {
	left, _ := filepath.Glob(filepath.Join(dir, exportsPrefix+"*"))
	for _, d := range left {
		pid, err := strconv.Atoi(strings.TrimPrefix(filepath.Base(d), exportsPrefix))
		if err != nil {
			continue
		}
		if pid == os.Getpid() {
			continue
		}
		if ended(pid) {
			_ = os.RemoveAll(d)
		}
	}
}

// ended tells whether a process is no more. One that was killed and that nobody
// has collected yet is still there to be signalled, and does nothing any more.
func ended(pid int) bool {
	if err := syscall.Kill(pid, 0); errors.Is(err, syscall.ESRCH) {
		return true
	}
	stat, err := os.ReadFile(fmt.Sprintf("/proc/%d/stat", pid))
	if err != nil {
		return false
	}
	// proc(5): the name is in parentheses and may hold anything; the state follows.
	_, state, _ := strings.Cut(string(stat[max(0, bytes.LastIndexByte(stat, ')')):]), " ")
	return strings.HasPrefix(state, "Z") || strings.HasPrefix(state, "X")
}
