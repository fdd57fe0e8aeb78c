package link

import (
	"bytes"
	"context"
	"io"
	"net"
	"path/filepath"
	"testing"
	"time"
)

// echo is a server that sends back what it gets, behind a link.
func echo(t *testing.T) (address, control string) {
	t.Helper()
	server, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = server.Close() })
	go func() {
		for {
			c, err := server.Accept()
			if err != nil {
				return
			}
			go func() {
				_, _ = io.Copy(c, c)
				_ = c.Close()
			}()
		}
	}()
	free, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address, control = free.Addr().String(), filepath.Join(t.TempDir(), "c")
	_ = free.Close()
	ctx, cancel := context.WithCancel(context.Background())
	up, ended := make(chan struct{}), make(chan error, 1)
	go func() {
		ended <- Run(ctx, Config{Routes: []Route{{Listen: address, To: server.Addr().String()}}, Control: control}, closer{up})
	}()
	select {
	case <-up:
	case err := <-ended:
		t.Fatal(err)
	}
	t.Cleanup(func() {
		cancel()
		if err := <-ended; err != nil {
			t.Error(err)
		}
	})
	return address, control
}

type closer struct{ up chan struct{} }

func (c closer) Write(b []byte) (int, error) {
	close(c.up)
	return len(b), nil
}

// roundTrip sends bytes through the link and returns what comes back.
func roundTrip(address string, sent []byte) ([]byte, error) {
	c, err := net.Dial("tcp", address)
	if err != nil {
		return nil, err
	}
	defer c.Close()
	go func() {
		_, _ = c.Write(sent)
		_ = c.(*net.TCPConn).CloseWrite()
	}()
	return io.ReadAll(c)
}

func ask(t *testing.T, control string, r *Rules) Stats {
	t.Helper()
	s, err := Ask(context.Background(), control, r)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestALinkDoesWhatItsRulesSay(t *testing.T) {
	address, control := echo(t)
	sent := bytes.Repeat([]byte("0123456789"), 100_000)
	got, err := roundTrip(address, sent)
	if err != nil || !bytes.Equal(got, sent) {
		t.Fatalf("a good link changed %d bytes to %d, %v", len(sent), len(got), err)
	}
	if s := ask(t, control, nil); s.Bytes != 2*int64(len(sent)) || s.Connections != 1 {
		t.Errorf("it counted %+v", s)
	}

	ask(t, control, &Rules{CorruptAfter: 5000})
	got, err = roundTrip(address, sent)
	different := 0
	for i := range got {
		if i < len(sent) && got[i] != sent[i] {
			different++
		}
	}
	if err != nil || len(got) != len(sent) || different != 1 {
		t.Errorf("a corrupting link changed %d of %d bytes, %v", different, len(got), err)
	}

	ask(t, control, &Rules{CutAfter: 300_000})
	// Who writes may be told of a reset instead of who reads.
	if got, err = roundTrip(address, sent); err == nil && len(got) == len(sent) {
		t.Error("nobody noticed the cut")
	}
	if got, err = roundTrip(address, sent); err == nil && len(got) > 0 {
		t.Error("the link was mended by itself")
	}
	if s := ask(t, control, &Rules{}); s.Cuts != 1 || s.Corrupted != 1 {
		t.Errorf("it counted %+v", s)
	}
	if got, err = roundTrip(address, sent); err != nil || !bytes.Equal(got, sent) {
		t.Errorf("after mending: %v", err)
	}
}

func TestAStalledLinkEndsNothing(t *testing.T) {
	address, control := echo(t)
	ask(t, control, &Rules{Stalled: true})
	c, err := net.Dial("tcp", address)
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	if _, err := c.Write([]byte("x")); err != nil {
		t.Fatal(err)
	}
	_ = c.SetReadDeadline(time.Now().Add(50 * time.Millisecond))
	if _, err := c.Read(make([]byte, 1)); err == nil {
		t.Fatal("a byte passed a stalled link")
	} else if timeout, ok := err.(net.Error); !ok || !timeout.Timeout() {
		t.Fatalf("a stalled link ended the connection: %v", err)
	}
	ask(t, control, &Rules{})
	_ = c.SetReadDeadline(time.Now().Add(10 * time.Second))
	if _, err := c.Read(make([]byte, 1)); err != nil {
		t.Errorf("after the stall: %v", err)
	}
}
