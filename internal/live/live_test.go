package live

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"io"
	"log/slog"
	"math/rand/v2"
	"net"
	"os"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/nbd"
	"github.com/backstay/backstay/internal/tier"
)

const job = backstay.JobID("01JB0000000000000000000001")

// store is a vault's point that can be away.
type store struct {
	away  atomic.Bool
	tried chan struct{} // holds one: somebody met the store while it was away
	opens atomic.Int64
	disks map[backstay.DiskTarget][]byte
}

var errAway = errors.New("the store is away")

func (s *store) check() error {
	if !s.away.Load() {
		return nil
	}
	select {
	case s.tried <- struct{}{}:
	default:
	}
	return errAway
}

func (s *store) open(context.Context, Order) (Source, error) {
	s.opens.Add(1)
	return s, s.check()
}

func (s *store) Disk(_ context.Context, target backstay.DiskTarget) (tier.Image, error) {
	return &image{s, s.disks[target]}, nil
}

func (s *store) Close() error { return nil }

type image struct {
	store *store
	data  []byte
}

func (i *image) ReadAt(p []byte, off int64) (int, error) {
	if err := i.store.check(); err != nil {
		return 0, err
	}
	return bytes.NewReader(i.data).ReadAt(p, off)
}

func (i *image) Close() error { return nil }
func (i *image) Size() int64  { return int64(len(i.data)) }
func (i *image) Extents(offset, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, i.store.check()
}

// world is an export under test, in this process.
type world struct {
	t     *testing.T
	store *store
	order Order
	ended chan error
	stop  context.CancelFunc
}

func newWorld(t *testing.T) *world {
	t.Helper()
	dir, err := os.MkdirTemp("", "lv") // short: it holds a socket
	must(t, err)
	t.Cleanup(func() { _ = os.RemoveAll(dir) })
	w := &world{t: t, store: &store{tried: make(chan struct{}, 1), disks: map[backstay.DiskTarget][]byte{}}}
	w.order = Order{
		Folder: filepath.Join(dir, "live-x"), User: os.Getuid(), Group: os.Getgid(), Point: "01JP0000000000000000000001",
		Vault: mover.VaultAccess{Name: "main", ID: "7b1a", Units: []string{"file:///u"}, Redundancy: backstay.LRS, Key: backstay.NewSecret([]byte("very secret key"))},
	}
	r := rand.New(rand.NewPCG(1, 2))
	for _, target := range []backstay.DiskTarget{"vda", "vdb"} {
		data := make([]byte, 3<<20+512)
		for i := range data {
			data[i] = byte(r.Uint32())
		}
		w.store.disks[target] = data
		w.order.Disks = append(w.order.Disks, Disk{target, int64(len(data))})
	}
	return w
}

// serve starts the export and returns when it listens.
func (w *world) serve() {
	w.t.Helper()
	must(w.t, Prepare(w.order))
	ctx, stop := context.WithCancel(context.Background())
	w.stop, w.ended = stop, make(chan error, 1)
	order, err := encode(w.order)
	must(w.t, err)
	answers, out := io.Pipe()
	go func() {
		w.ended <- Serve(ctx, bytes.NewReader(order), out, w.store.open, slog.New(slog.DiscardHandler))
	}()
	must(w.t, answerOf(answers))
	w.t.Cleanup(func() {
		must(w.t, Dismiss(w.order.Folder))
		stop()
	})
}

func (w *world) dial(target string) *nbd.Client {
	w.t.Helper()
	c, err := nbd.Dial(w.t.Context(), Socket(w.order.Folder), target, nbd.Options{})
	must(w.t, err)
	w.t.Cleanup(func() { _ = c.Close() })
	return c
}

func (w *world) same(c *nbd.Client, target backstay.DiskTarget) {
	w.t.Helper()
	got := make([]byte, len(w.store.disks[target]))
	if n, err := c.ReadAt(got, 0); n < len(got) {
		w.t.Fatal(err)
	}
	if !bytes.Equal(got, w.store.disks[target]) {
		w.t.Errorf("disk %s is not as the point has it", target)
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// TestWhatIsAskedWhileTheStoreIsAwayWaits: nobody is told of an error, also not
// who asks before the point could be opened.
func TestWhatIsAskedWhileTheStoreIsAwayWaits(t *testing.T) {
	w := newWorld(t)
	w.store.away.Store(true)
	w.serve()
	c := w.dial("vda")
	got := make(chan error, 4)
	for i := range 4 {
		go func() {
			buf := make([]byte, 4096)
			offset := int64(i) << 19
			n, err := c.ReadAt(buf, offset)
			if n == len(buf) {
				err = nil
				if !bytes.Equal(buf, w.store.disks["vda"][offset:][:4096]) {
					err = errors.New("other content")
				}
			}
			got <- err
		}()
	}
	<-w.store.tried
	<-w.store.tried // again: it was held
	if state := ReadState(w.order.Folder); !strings.Contains(state.Held, "away") {
		t.Errorf("the export says %+v", state)
	}
	select {
	case err := <-got:
		t.Fatalf("answered while the store was away: %v", err)
	default:
	}
	w.store.away.Store(false)
	for range 4 {
		must(t, <-got)
	}
	w.same(c, "vda")
	if state := ReadState(w.order.Folder); state.Held != "" {
		t.Errorf("the export says %+v", state)
	}
}

// TestAnExportThatIsStartedAgainServesTheSame, and of two one serves.
func TestAnExportThatIsStartedAgainServesTheSame(t *testing.T) {
	w := newWorld(t)
	w.serve()
	first := w.dial("vdb")
	w.same(first, "vdb")
	if !(Processes{}).Running(w.order.Folder) {
		t.Error("it does not run")
	}
	order, err := encode(w.order)
	must(t, err)
	must(t, Serve(t.Context(), bytes.NewReader(order), io.Discard, w.store.open, slog.New(slog.DiscardHandler)))
	second := w.dial("vda")
	w.same(second, "vda") // still the first
	must(t, Dismiss(w.order.Folder))
	select {
	case <-w.ended:
		t.Fatal("it ended while somebody was connected")
	default:
	}
	w.same(first, "vdb")
	must(t, errors.Join(first.Close(), second.Close()))
	must(t, <-w.ended)
	w.serve()
	w.same(w.dial("vda"), "vda")
}

// TestAnExportThatNobodyNeedsEnds, and SIGTERM is a wish that counts only then.
func TestAnExportThatNobodyNeedsEnds(t *testing.T) {
	w := newWorld(t)
	w.serve()
	c := w.dial("vda")
	w.stop()
	w.same(c, "vda")
	must(t, c.Close())
	must(t, <-w.ended)
	if (Processes{}).Running(w.order.Folder) {
		t.Error("it still holds its folder")
	}
	w.serve()
	must(t, Dismiss(w.order.Folder))
	must(t, <-w.ended)
}

// TestASealedOrderIsOpenedByItsHostForItsJobAlone, and nothing of the key is in it.
func TestASealedOrderIsOpenedByItsHostForItsJobAlone(t *testing.T) {
	w := newWorld(t)
	key := bytes.Repeat([]byte{7}, 32)
	sealed, err := Seal(key, job, w.order)
	must(t, err)
	if bytes.Contains(sealed, []byte("secret")) || bytes.Contains(sealed, []byte("main")) {
		t.Error("something of it is plain")
	}
	o, err := Unseal(key, job, sealed)
	must(t, err)
	if string(o.Vault.Key.Reveal()) != "very secret key" || o.Folder != w.order.Folder || len(o.Disks) != 2 {
		t.Errorf("opened as %+v", o)
	}
	if _, err := Unseal(bytes.Repeat([]byte{8}, 32), job, sealed); err == nil {
		t.Error("another host opened it")
	}
	if _, err := Unseal(key, "01JB0000000000000000000002", sealed); err == nil {
		t.Error("it was opened as that of another job")
	}
	if text, err := json.Marshal(o); err != nil || bytes.Contains(text, []byte("secret key")) {
		t.Errorf("an order is printed with its key: %s %v", text, err)
	}
}

// TestNobodyElseMayReadThePoint: a client of another user is hung up on.
func TestNobodyElseMayReadThePoint(t *testing.T) {
	w := newWorld(t)
	must(t, Prepare(w.order))
	l, err := listen(w.order, slog.New(slog.DiscardHandler))
	must(t, err)
	defer l.Close()
	info, err := os.Stat(Socket(w.order.Folder))
	must(t, err)
	folder, err := os.Stat(w.order.Folder)
	must(t, err)
	if info.Mode().Perm() != 0o600 || folder.Mode().Perm() != 0o700 {
		t.Errorf("socket %v, folder %v", info.Mode(), folder.Mode())
	}
	for _, allowed := range []struct {
		user int
		want bool
	}{{0, true}, {os.Geteuid(), true}, {w.order.User, true}, {12345, false}} {
		if got := l.may(allowed.user); got != allowed.want {
			t.Errorf("user %d: %v", allowed.user, got)
		}
	}
	done := make(chan struct{})
	go func() {
		defer close(done)
		if conn, err := l.Accept(); err == nil {
			_ = conn.Close()
		}
	}()
	conn, err := net.Dial("unix", Socket(w.order.Folder))
	must(t, err)
	defer conn.Close()
	<-done
	if n := l.clients.Load(); n != 0 {
		t.Errorf("%d clients are counted", n)
	}
}

// TestNeighboursAreReadAhead, each once, and never in the way of a request.
func TestNeighboursAreReadAhead(t *testing.T) {
	w := newWorld(t)
	asked := map[int64]int{}
	h := newHolder(t.Context(), w.order, w.store.open, slog.New(slog.DiscardHandler))
	h.ahead.queue = make(chan place, aheadQueue) // nobody takes from it: we look at it
	for range 3 {
		h.ahead.asked(0, 100, 4096)
	}
	for len(h.ahead.queue) > 0 {
		asked[(<-h.ahead.queue).block]++
	}
	if len(asked) != 3 || asked[0] != 1 || asked[1] != 1 || asked[2] != 1 {
		t.Errorf("asked for blocks %v", asked)
	}
	h.ahead.asked(0, 3<<20, 512) // the end of the disk
	if n := len(h.ahead.queue); n != 1 {
		t.Errorf("%d blocks behind the end", n)
	}
}
