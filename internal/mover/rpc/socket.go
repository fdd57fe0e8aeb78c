package rpc

import (
	"errors"
	"fmt"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"time"

	"golang.org/x/sys/unix"
)

// Listen makes the mover's unix socket, which only its owner can open. A socket
// file that a crash left is replaced, one that somebody answers on is not.
func Listen(path string) (net.Listener, error) {
	lock, err := lockBeside(path)
	if err != nil {
		return nil, err
	}
	defer func() { _ = lock.Close() }()
	if err := removeStale(path); err != nil {
		return nil, err
	}
	// The socket is born under another name in mode 0600 and renamed, so that
	// at no instant anybody else can connect.
	fresh := path + ".new"
	if err := os.Remove(fresh); err != nil && !errors.Is(err, os.ErrNotExist) {
		return nil, fmt.Errorf("remove old socket: %w", err)
	}
	l, err := net.Listen("unix", fresh)
	if err != nil {
		return nil, fmt.Errorf("listen on %s: %w", path, err)
	}
	l.(*net.UnixListener).SetUnlinkOnClose(false)
	if err := errors.Join(os.Chmod(fresh, 0o600), os.Rename(fresh, path)); err != nil {
		return nil, errors.Join(fmt.Errorf("make socket %s: %w", path, err), l.Close(), os.Remove(fresh))
	}
	return &socketListener{Listener: l, path: path}, nil
}

// socketListener removes its socket file when it is closed.
type socketListener struct {
	net.Listener
	path string
}

func (l *socketListener) Close() error {
	err := l.Listener.Close()
	if err == nil { // only the first Close: the name may be somebody else's later
		_ = os.Remove(l.path)
	}
	return err
}

// lockBeside keeps two processes from making the same socket at once.
func lockBeside(path string) (*os.File, error) {
	f, err := os.OpenFile(path+".lock", os.O_CREATE|os.O_RDWR, 0o600)
	if err != nil {
		return nil, fmt.Errorf("lock %s: %w", filepath.Base(path), err)
	}
	if err := unix.Flock(int(f.Fd()), unix.LOCK_EX); err != nil {
		return nil, errors.Join(fmt.Errorf("lock %s: %w", filepath.Base(path), err), f.Close())
	}
	return f, nil
}

func removeStale(path string) error {
	info, err := os.Lstat(path)
	if errors.Is(err, os.ErrNotExist) {
		return nil
	}
	if err != nil {
		return fmt.Errorf("look at %s: %w", path, err)
	}
	if info.Mode()&os.ModeSocket == 0 {
		return fmt.Errorf("%s is there and is not a socket", path)
	}
	conn, err := net.DialTimeout("unix", path, time.Second)
	if err == nil {
		return errors.Join(fmt.Errorf("somebody answers on %s already", path), conn.Close())
	}
	if !errors.Is(err, unix.ECONNREFUSED) {
		return fmt.Errorf("ask who listens on %s: %w", path, err)
	}
	if err := os.Remove(path); err != nil {
		return fmt.Errorf("remove stale socket: %w", err)
	}
	return nil
}

// peerListener hangs up on everybody but root and its own user. The mode of
// the socket file says the same; this holds also where the file was opened up.
type peerListener struct {
	net.Listener
	log *slog.Logger
}

// Accept waits for the next connection of somebody who may speak.
func (l peerListener) Accept() (net.Conn, error) {
	for {
		conn, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		uid, err := peer(conn)
		if err == nil && (uid == 0 || uid == os.Geteuid()) {
			return conn, nil
		}
		l.log.Warn("mover refused a connection", "uid", uid, "error", err)
		_ = conn.Close()
	}
}

// peer returns the user at the other end of a unix socket.
func peer(conn net.Conn) (int, error) {
	u, ok := conn.(*net.UnixConn)
	if !ok {
		return -1, errors.New("not a unix socket")
	}
	raw, err := u.SyscallConn()
	if err != nil {
		return -1, fmt.Errorf("ask for the peer: %w", err)
	}
	uid := -1
	var askErr error
	err = raw.Control(func(fd uintptr) {
		cred, err := unix.GetsockoptUcred(int(fd), unix.SOL_SOCKET, unix.SO_PEERCRED)
		if err != nil {
			askErr = err
			return
		}
		uid = int(cred.Uid)
	})
	if err := errors.Join(err, askErr); err != nil {
		return -1, fmt.Errorf("ask for the peer: %w", err)
	}
	return uid, nil
}
