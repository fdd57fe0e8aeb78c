package filemount

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"math/rand/v2"
	"net/url"
	"os"
	"strings"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/nbd"
)

func someBytes(n int) []byte {
	r, data := rand.New(rand.NewPCG(3, 4)), make([]byte, n)
	for i := range data {
		data[i] = byte(r.Uint32())
	}
	return data
}

// TestWhatIsReadInOrderIsFetchedAhead, in few requests, and each byte once.
func TestWhatIsReadInOrderIsFetchedAhead(t *testing.T) {
	disk := someBytes(20<<20 + 17)
	f := &fakeSource{disk: disk}
	p := newPages(t.Context(), int64(len(disk)), readOf(f, What{Disk: "vda"}))
	got, err := io.ReadAll(io.NewSectionReader(p, 0, int64(len(disk))))
	if err != nil || !bytes.Equal(got, disk) {
		t.Fatalf("%d bytes, %v", len(got), err)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.reads > 16 || f.bytes > int64(len(disk))*11/10 {
		t.Errorf("%d requests for %d bytes", f.reads, f.bytes)
	}
}

// TestWhatIsReadHereAndThereFetchesLittle.
func TestWhatIsReadHereAndThereFetchesLittle(t *testing.T) {
	disk := someBytes(30 << 20)
	f := &fakeSource{disk: disk}
	p := newPages(t.Context(), int64(len(disk)), readOf(f, What{Disk: "vda"}))
	r := rand.New(rand.NewPCG(5, 6))
	for range 20 {
		off, b := r.Int64N(30<<20-5000), make([]byte, 1+r.IntN(4096))
		if n, err := p.ReadAt(b, off); err != nil || n != len(b) || !bytes.Equal(b, disk[off:off+int64(n)]) {
			t.Fatalf("at %d: %d, %v", off, n, err)
		}
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.bytes > 20*4*pageBytes {
		t.Errorf("%d bytes were fetched", f.bytes)
	}
}

// TestAReadThatFailedIsTriedAgain: one that was cut off spoils nothing for later.
func TestAReadThatFailedIsTriedAgain(t *testing.T) {
	f := &fakeSource{disk: someBytes(1 << 20), away: errors.New("the line is dead")}
	p := newPages(t.Context(), 1<<20, readOf(f, What{Disk: "vda"}))
	b := make([]byte, 1000)
	if _, err := p.ReadAt(b, 500_000); err == nil {
		t.Error("it was read from nowhere")
	}
	f.mu.Lock()
	f.away = nil
	f.mu.Unlock()
	if _, err := p.ReadAt(b, 500_000); err != nil || !bytes.Equal(b, f.disk[500_000:501_000]) {
		t.Error(err)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// served is a Serve under way.
type served struct {
	said chan report
	done chan error
	stop func()
}

func serve(t *testing.T, f *fakeSource, o Order) *served {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	order, err := json.Marshal(orderWire{o, o.Ticket.Reveal()})
	if err != nil {
		t.Fatal(err)
	}
	r, w := io.Pipe()
	s := &served{make(chan report, 1), make(chan error, 1), cancel}
	go func() {
		var said report
		_ = json.NewDecoder(r).Decode(&said)
		s.said <- said
		_, _ = io.Copy(io.Discard, r)
	}()
	go func() {
		server := Server{Connect: func(got Order) Source {
			if string(got.Ticket.Reveal()) != string(o.Ticket.Reveal()) {
				t.Errorf("the ticket was lost on the way")
			}
			return f
		}, Look: 10 * time.Millisecond, Patience: 50 * time.Millisecond}
		s.done <- server.Serve(ctx, bytes.NewReader(order), w)
		_ = w.Close()
	}()
	return s
}

// TestADiskIsExportedUnderANameThatOnlyItsAddressTells, until its session ends, and
// nothing is left.
func TestADiskIsExportedUnderANameThatOnlyItsAddressTells(t *testing.T) {
	f := &fakeSource{disk: someBytes(3 << 20)}
	parent, err := os.MkdirTemp("", "bs") // short: it holds a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(parent) })
	s := serve(t, f, Order{Kind: backstay.SessionNBD, Session: "01S", Disk: "vda", Size: 3 << 20, Parent: parent, Ticket: backstay.NewSecret([]byte("bsf_x"))})
	said := <-s.said
	u, err := url.Parse(said.Address)
	if err != nil || u.Scheme != "nbd+unix" || len(u.Path) < 20 || said.Error != "" {
		t.Fatalf("%+v: %v", said, err)
	}
	socket := u.Query().Get("socket")
	info, err := os.Stat(strings.TrimSuffix(socket, "/s"))
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Fatalf("folder of the socket: %v %v", info, err)
	}
	c, err := nbd.Dial(t.Context(), socket, strings.TrimPrefix(u.Path, "/"), nbd.Options{})
	if err != nil {
		t.Fatal(err)
	}
	got := make([]byte, 3<<20)
	if _, err := c.ReadAt(got, 0); err != nil || !bytes.Equal(got, f.disk) {
		t.Error(err)
	}
	_ = c.Close()
	for _, guess := range []string{"", "vda", "x"} {
		if c, err := nbd.Dial(t.Context(), socket, guess, nbd.Options{}); err == nil {
			if c.Size() > 0 {
				t.Errorf("the disk is served as %q too", guess)
			}
			_ = c.Close()
		}
	}
	_ = f.End(t.Context())
	if err := <-s.done; err != nil {
		t.Error(err)
	}
	if left := names(parent); len(left) > 0 {
		t.Errorf("left: %v", left)
	}
}

// TestAnExportGoesWithItsServer: one that does not answer any more is not waited for.
func TestAnExportGoesWithItsServer(t *testing.T) {
	f := &fakeSource{disk: someBytes(1 << 20)}
	s := serve(t, f, Order{Kind: backstay.SessionNBD, Session: "01S", Disk: "vda", Size: 1 << 20, Parent: ""})
	if said := <-s.said; said.Error != "" {
		t.Fatal(said.Error)
	}
	f.mu.Lock()
	f.away = errors.New("connection refused")
	f.mu.Unlock()
	<-s.done
}
