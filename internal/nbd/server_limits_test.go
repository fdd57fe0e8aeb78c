package nbd

import (
	"bytes"
	"context"
	"errors"
	"io"
	"io/fs"
	"net"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"

	"go.uber.org/goleak"
)

func TestAClientThatBreaksTheProtocolIsCutOff(t *testing.T) {
	socket := offer(t, newMemory(1<<20).export())
	for name, act := range map[string]func() *peer{
		"flags":              func() *peer { p := greet(t, socket); return p },
		"magic of an option": func() *peer { p := greet(t, socket); p.send(uint64(1), uint64(2)); return p },
		"option without end": func() *peer {
			p := greet(t, socket)
			p.send(uint64(magicOption), uint32(optGo), uint32(1<<31))
			p.want(optReply(optGo, repErrTooBig, be("option is too long")))
			return p
		},
		"unknown export":     func() *peer { p := greet(t, socket); p.option(optExportName, "vdz"); return p },
		"magic of a request": func() *peer { p := rawClient(t, socket, true); p.send(make([]byte, 28)); return p },
		"write without end": func() *peer {
			p := rawClient(t, socket, true)
			p.send(magicRequest, uint16(0), uint16(cmdWrite), uint64(1), uint64(0), ^uint32(0))
			return p
		},
	} {
		p := act()
		if name == "flags" {
			conn, err := net.Dial("unix", socket)
			if err != nil {
				t.Fatal(err)
			}
			p = &peer{t, conn}
			p.want(be("NBDMAGICIHAVEOPT", uint16(3)))
			p.send(uint32(1 << 7))
		}
		t.Log(name)
		p.wantGone()
		_ = p.Close()
	}
}

func TestOptionsWithoutEndAreCutOff(t *testing.T) {
	p := greet(t, offer(t, newMemory(4096).export()))
	for range maxOptions {
		p.option(99)
		p.want(optReply(99, repErrUnsup, nil))
	}
	p.wantGone()
}

// TestOneConnectionHoldsABoundedAmount: a client that asks for everything at
// once gets it one after the other.
func TestOneConnectionHoldsABoundedAmount(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		started, release := 0, make(chan struct{})
		e := newMemory(maxRequest).export()
		e.Content = readerFunc(func(b []byte, _ int64) (int, error) {
			started += len(b)
			<-release
			return len(b), nil
		})
		s := &service{exports: []Export{e}, conns: map[net.Conn]struct{}{}}
		ours, theirs := net.Pipe()
		var work sync.WaitGroup
		work.Go(func() { s.serve(t.Context(), theirs) })
		p := &peer{t, ours}
		p.want(be("NBDMAGICIHAVEOPT", uint16(3)))
		p.send(uint32(3))
		p.option(optExportName, "vda")
		if _, err := io.ReadFull(p, make([]byte, 10)); err != nil {
			t.Fatal(err)
		}
		var all []byte
		for i := range uint64(4) {
			all = append(all, be(uint32(magicRequest), uint16(0), uint16(cmdRead), i, uint64(0), uint32(24<<20))...)
		}
		p.send(all)
		for n := range 4 {
			synctest.Wait()
			if started != (n+1)*24<<20 {
				t.Errorf("%d bytes were asked for of %d answers", started, n)
			}
			release <- struct{}{}
			if _, err := io.CopyN(io.Discard, p, 16+24<<20); err != nil {
				t.Fatal(err)
			}
		}
		_ = p.Close()
		_ = theirs.Close()
		work.Wait()
	})
}

type readerFunc func([]byte, int64) (int, error)

func (f readerFunc) ReadAt(b []byte, off int64) (int, error) { return f(b, off) }

func TestTooManyConnectionsAreNotTaken(t *testing.T) {
	socket := offer(t, newMemory(4096).export())
	for range maxConnections {
		greet(t, socket)
	}
	conn, err := net.Dial("unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	defer conn.Close()
	(&peer{t, conn}).wantGone()
}

// TestRequestsUnderWayAreAnsweredWhenTheServerEnds, and nothing new is.
func TestRequestsUnderWayAreAnsweredWhenTheServerEnds(t *testing.T) {
	defer goleak.VerifyNone(t, goleak.IgnoreCurrent())
	m := newMemory(1 << 20)
	started, release := make(chan struct{}), make(chan struct{})
	e := m.export()
	e.Content = readerFunc(func(b []byte, off int64) (int, error) {
		close(started)
		<-release
		return m.ReadAt(b, off)
	})
	socket := filepath.Join(t.TempDir(), "s")
	l, err := ListenUnix(socket)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	ended := make(chan error, 1)
	go func() { ended <- Serve(ctx, l, e) }()
	c := connect(t, socket, "vda")
	got := make([]byte, 4096)
	answered := make(chan error, 1)
	go func() {
		_, err := c.ReadAt(got, 4096)
		answered <- err
	}()
	<-started
	cancel()
	close(release)
	if err := <-answered; err != nil || !bytes.Equal(got, m.content[4096:][:4096]) {
		t.Errorf("the request was answered with %v", err)
	}
	if err := <-ended; err != nil {
		t.Errorf("serve ended with %v", err)
	}
	if _, err := Dial(t.Context(), socket, "vda", Options{}); err == nil {
		t.Error("it still listens")
	}
	_ = c.Close()
}

func TestASocketIsForItsOwnerAloneAndReplacesNothing(t *testing.T) {
	dir := t.TempDir()
	path := filepath.Join(dir, "s")
	l, err := ListenUnix(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("mode %v, %v", info.Mode(), err)
	}
	if _, err := ListenUnix(path); !errors.Is(err, fs.ErrExist) {
		t.Errorf("a second one: %v", err)
	}
	_ = l.Close()
	_ = l.Close()
	if left, _ := os.ReadDir(dir); len(left) != 0 {
		t.Errorf("left behind: %v", left)
	}
	file := filepath.Join(dir, "file")
	if err := os.WriteFile(file, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := ListenUnix(file); !errors.Is(err, fs.ErrExist) {
		t.Errorf("over a file: %v", err)
	}
}

func TestAnExportThatCannotBeServedIsRefused(t *testing.T) {
	good := newMemory(4096).export()
	noContent, twice, negative := good, good, good
	noContent.Content, negative.Size = nil, -1
	for _, exports := range [][]Export{nil, {noContent}, {good, twice}, {negative}} {
		l, err := ListenUnix(filepath.Join(t.TempDir(), "s"))
		if err != nil {
			t.Fatal(err)
		}
		if err := Serve(t.Context(), l, exports...); err == nil {
			t.Errorf("%+v was served", exports)
		}
	}
}
