package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"go.uber.org/goleak"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

var key = []byte("a-vault-key-of-thirty-two-bytes!")

func quick() timing {
	return timing{beat: 20 * time.Millisecond, silence: 2 * time.Second, grace: 5 * time.Second}
}

// logs is a log that tests can read while it is written.
type logs struct {
	mu  sync.Mutex
	buf bytes.Buffer
}

func (l *logs) Write(p []byte) (int, error) {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.Write(p)
}

func (l *logs) String() string {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.buf.String()
}

func (l *logs) logger() *slog.Logger {
	return slog.New(slog.NewTextHandler(l, &slog.HandlerOptions{Level: slog.LevelDebug}))
}

// world is a mover behind a socket.
type world struct {
	fake   *movertest.Fake
	client *Client
	path   string
	logs   logs
	stop   func()
}

func serveFake(t *testing.T, tm timing) *world {
	t.Helper()
	w := &world{fake: movertest.NewFake(key), path: filepath.Join(t.TempDir(), "mover.sock")}
	w.start(t, tm)
	w.client = dial("unix://"+w.path, tm)
	return w
}

func (w *world) start(t *testing.T, tm timing) {
	t.Helper()
	l, err := Listen(w.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, w.fake, w.logs.logger(), tm) }()
	w.stop = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("serve: %v", err)
		}
	})
	t.Cleanup(func() { w.stop() })
}

func access() mover.VaultAccess {
	return mover.VaultAccess{Name: "v", ID: "id", Units: []string{"file:///v"}, Redundancy: backstay.LRS, Key: backstay.NewSecret(key)}
}

// TestAMoverBehindASocketIsAMover runs the port's suite through the socket.
func TestAMoverBehindASocketIsAMover(t *testing.T) {
	movertest.Run(t, func(t *testing.T) movertest.Subject {
		w := serveFake(t, quick())
		return movertest.Subject{Mover: w.client, VM: w.fake.Machine.ID, Vault: access(), Folder: "/restored", Logs: w.logs.String}
	})
}

// TestErrorsKeepTheirParts: code, kind, message, cause and action arrive as
// they left.
func TestErrorsKeepTheirParts(t *testing.T) {
	w := serveFake(t, quick())
	sent := backstay.Errorf(backstay.CodeNoSpace, "no room in %s", "/pool").Becausef("4 GiB needed").Do("buy a disk")
	w.fake.Hook = func(context.Context, string) error { return fmt.Errorf("look: %w", sent) }
	_, err := w.client.Facts(t.Context())
	var got *backstay.Error
	if !errors.As(err, &got) {
		t.Fatalf("%v has no code", err)
	}
	if got.Kind != sent.Kind || got.Code != sent.Code || got.Message != sent.Message || got.Cause != sent.Cause || got.Action != sent.Action {
		t.Errorf("sent %+v, got %+v", sent, got)
	}
}

// TestAnErrorWithoutCodeIsInternal, and its text is in the host's log.
func TestAnErrorWithoutCodeIsInternal(t *testing.T) {
	w := serveFake(t, quick())
	w.fake.Hook = func(context.Context, string) error { return errors.New("disk on fire") }
	if _, err := w.client.Facts(t.Context()); !backstay.IsCode(err, backstay.CodeInternal) {
		t.Errorf("%v, want code internal", err)
	}
	if !strings.Contains(w.logs.String(), "disk on fire") {
		t.Errorf("the log does not say why: %s", w.logs.String())
	}
}

// TestAPanicIsAnErrorOfOneCall: the host's side lives on.
func TestAPanicIsAnErrorOfOneCall(t *testing.T) {
	w := serveFake(t, quick())
	w.fake.Hook = func(_ context.Context, method string) error {
		if method == "Facts" {
			panic("oh")
		}
		return nil
	}
	if _, err := w.client.Facts(t.Context()); !backstay.IsCode(err, backstay.CodeInternal) {
		t.Errorf("%v, want code internal", err)
	}
	if _, err := w.client.VMs(t.Context()); err != nil {
		t.Errorf("the next call: %v", err)
	}
}

// TestACancelledCallReturnsWhenTheHostHasUndone: not before, so that what the
// caller does next does not meet it half way.
func TestACancelledCallReturnsWhenTheHostHasUndone(t *testing.T) {
	w := serveFake(t, quick())
	undone := make(chan struct{})
	entered := make(chan struct{})
	w.fake.Hook = func(ctx context.Context, method string) error {
		close(entered)
		<-ctx.Done()
		time.Sleep(50 * time.Millisecond) // the undo
		close(undone)
		return fmt.Errorf("stage: %w", ctx.Err())
	}
	ctx, cancel := context.WithCancelCause(t.Context())
	go func() {
		<-entered
		cancel(backstay.ErrCancelled)
	}()
	_, err := w.client.Stage(ctx, mover.StageRequest{}, nil)
	select {
	case <-undone:
	default:
		t.Error("the call returned while the host was still undoing")
	}
	if !backstay.IsCode(err, backstay.CodeCancelled) || !errors.Is(err, backstay.ErrCancelled) || !errors.Is(err, context.Canceled) {
		t.Errorf("cancelled call: %v", err)
	}
}

// TestAVanishedServerCancelsItsCalls: the host does not work for nobody.
func TestAVanishedServerCancelsItsCalls(t *testing.T) {
	w := serveFake(t, quick())
	entered, ended := make(chan struct{}), make(chan error, 1)
	w.fake.Hook = func(ctx context.Context, _ string) error {
		close(entered)
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	conn := rawCall(t, w.path, "Facts")
	<-entered
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if err := <-ended; !errors.Is(err, errGone) {
		t.Errorf("the call ended because %v", err)
	}
}

// TestASilentServerCancelsItsCalls: a connection that stays open proves no life.
func TestASilentServerCancelsItsCalls(t *testing.T) {
	tm := quick()
	tm.silence = 100 * time.Millisecond
	w := serveFake(t, tm)
	ended := make(chan error, 1)
	w.fake.Hook = func(ctx context.Context, _ string) error {
		<-ctx.Done()
		ended <- context.Cause(ctx)
		return ctx.Err()
	}
	conn := rawCall(t, w.path, "Facts")
	defer func() { _ = conn.Close() }()
	if err := <-ended; !errors.Is(err, errSilent) {
		t.Errorf("the call ended because %v", err)
	}
}

// rawCall makes a call by hand and says nothing more.
func rawCall(t *testing.T, path, method string) net.Conn {
	t.Helper()
	conn, err := net.Dial("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	_, err = fmt.Fprintf(conn, "POST %s%s HTTP/1.1\r\nHost: mover\r\n%s: %d\r\nTransfer-Encoding: chunked\r\n\r\n3\r\n{}\n\r\n",
		pathPrefix, method, protocolHeader, Protocol)
	if err != nil {
		t.Fatal(err)
	}
	return conn
}

// fakeHost answers hello, and calls in the given way.
func fakeHost(t *testing.T, protocol string, answer http.HandlerFunc) string {
	t.Helper()
	path := filepath.Join(t.TempDir(), "mover.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET "+pathPrefix+"hello", func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintf(w, `{"protocol":%s}`, protocol)
	})
	mux.HandleFunc("POST "+pathPrefix, answer)
	srv := &http.Server{Handler: mux, ReadHeaderTimeout: time.Second}
	done := make(chan struct{})
	go func() {
		defer close(done)
		_ = srv.Serve(l)
	}()
	t.Cleanup(func() {
		_ = srv.Close()
		<-done
	})
	return "unix://" + path
}

// TestASilentHostIsAway: beats that stop end the call, though the connection
// stays open.
func TestASilentHostIsAway(t *testing.T) {
	tm := quick()
	tm.silence = 100 * time.Millisecond
	release := make(chan struct{})
	url := fakeHost(t, protocolNumber(), func(w http.ResponseWriter, _ *http.Request) {
		_, _ = fmt.Fprintln(w, `{}`)
		_ = http.NewResponseController(w).Flush()
		<-release
	})
	defer close(release)
	_, err := dial(url, tm).Facts(t.Context())
	if !backstay.IsCode(err, backstay.CodeHostAway) || !strings.Contains(err.Error(), errHostSilent.Error()) {
		t.Errorf("%v, want code host-unreachable because of silence", err)
	}
}

// TestAHostThatDiesInTheMiddleIsAway, and progress that came before was told.
func TestAHostThatDiesInTheMiddleIsAway(t *testing.T) {
	url := fakeHost(t, protocolNumber(), func(w http.ResponseWriter, r *http.Request) {
		_, _ = fmt.Fprintln(w, `{"progress":{"phase":"transfer","done":1,"total":2}}`)
		_ = http.NewResponseController(w).Flush()
		conn, _, err := http.NewResponseController(w).Hijack()
		if err == nil {
			_ = conn.Close()
		}
	})
	told := 0
	_, err := dial(url, quick()).Transfer(t.Context(), mover.TransferRequest{}, func(mover.Report) { told++ })
	if !backstay.IsCode(err, backstay.CodeHostAway) || told != 1 {
		t.Errorf("%v after %d reports, want code host-unreachable after 1", err, told)
	}
}

// TestAnotherProtocolIsRefusedInWords on either side.
func TestAnotherProtocolIsRefusedInWords(t *testing.T) {
	url := fakeHost(t, "1", func(http.ResponseWriter, *http.Request) { t.Error("a call was made all the same") })
	_, err := dial(url, quick()).Facts(t.Context())
	if !backstay.IsCode(err, backstay.CodeHostAway) || !strings.Contains(err.Error(), "protocol 1") {
		t.Errorf("client: %v", err)
	}

	w := serveFake(t, quick())
	conn, err := net.Dial("unix", w.path)
	if err != nil {
		t.Fatal(err)
	}
	defer func() { _ = conn.Close() }()
	_, _ = fmt.Fprintf(conn, "POST %sFacts HTTP/1.1\r\nHost: mover\r\n%s: 99\r\nContent-Length: 2\r\n\r\n{}", pathPrefix, protocolHeader)
	answer := make([]byte, 12)
	if _, err := conn.Read(answer); err != nil || string(answer) != "HTTP/1.1 409" {
		t.Errorf("host: %q %v", answer, err)
	}
}

// TestAHostThatComesBackIsFoundAgain without a new client.
func TestAHostThatComesBackIsFoundAgain(t *testing.T) {
	w := serveFake(t, quick())
	if _, err := w.client.Facts(t.Context()); err != nil {
		t.Fatal(err)
	}
	w.stop()
	if _, err := w.client.Facts(t.Context()); !backstay.IsCode(err, backstay.CodeHostAway) {
		t.Errorf("while the host is away: %v", err)
	}
	w.start(t, quick())
	if _, err := w.client.Facts(t.Context()); err != nil {
		t.Errorf("after it came back: %v", err)
	}
}

// TestAStoppingHostEndsItsCalls and waits for their undo.
func TestAStoppingHostEndsItsCalls(t *testing.T) {
	w := serveFake(t, quick())
	entered := make(chan struct{})
	w.fake.Hook = func(ctx context.Context, _ string) error {
		close(entered)
		<-ctx.Done()
		return ctx.Err()
	}
	done := make(chan error, 1)
	go func() {
		_, err := w.client.Stage(t.Context(), mover.StageRequest{}, nil)
		done <- err
	}()
	<-entered
	w.stop()
	if err := <-done; !backstay.IsCode(err, backstay.CodeHostAway) {
		t.Errorf("%v, want code host-unreachable", err)
	}
	if _, err := os.Stat(w.path); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is left: %v", err)
	}
}

// TestVaultAccessTravelsWhole, its key included, which encodes as stars elsewhere.
func TestVaultAccessTravelsWhole(t *testing.T) {
	w := serveFake(t, quick())
	got := make(chan mover.TransferRequest, 1)
	w.client = nil
	spy := spyMover{Fake: w.fake, got: got}
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	go func() { done <- Serve(ctx, l, spy, w.logs.logger()) }()
	defer func() { cancel(); <-done }()
	expires := time.Date(2030, 1, 1, 0, 0, 0, 0, time.UTC)
	sent := mover.TransferRequest{Job: "j", Point: "p", Parent: "q", Packs: []string{"a", "b"}, Expires: &expires, Policy: "daily", Vault: access()}
	_, _ = Dial("unix://"+path).Transfer(t.Context(), sent, nil)
	r := <-got
	if !bytes.Equal(r.Vault.Key.Reveal(), key) || r.Vault.Name != "v" || r.Vault.ID != "id" || r.Vault.Units[0] != "file:///v" || r.Vault.Redundancy != backstay.LRS {
		t.Errorf("vault access arrived as %+v", r.Vault)
	}
	if r.Job != "j" || r.Point != "p" || r.Parent != "q" || len(r.Packs) != 2 || !r.Expires.Equal(expires) || r.Policy != "daily" {
		t.Errorf("request arrived as %+v", r)
	}
}

type spyMover struct {
	*movertest.Fake
	got chan mover.TransferRequest
}

func (s spyMover) Transfer(_ context.Context, r mover.TransferRequest, _ mover.Progress) (mover.Transferred, error) {
	s.got <- r
	return mover.Transferred{}, nil
}

// TestPacksAreNeverLeftOut: reports that name a pack all arrive, in order,
// however fast they come.
func TestPacksAreNeverLeftOut(t *testing.T) {
	tm := quick()
	tm.gap = time.Hour
	path := filepath.Join(t.TempDir(), "s")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan error, 1)
	var lg logs
	go func() { done <- serve(ctx, l, packMover{movertest.NewFake(key)}, lg.logger(), tm) }()
	defer func() { cancel(); <-done }()
	var packs []string
	_, err = dial("unix://"+path, tm).Transfer(t.Context(), mover.TransferRequest{}, func(r mover.Report) {
		if r.Pack != "" {
			packs = append(packs, r.Pack)
		}
	})
	if err != nil || len(packs) != 100 || packs[0] != "0" || packs[99] != "99" {
		t.Errorf("%d packs %v", len(packs), err)
	}
}

type packMover struct{ *movertest.Fake }

func (packMover) Transfer(_ context.Context, _ mover.TransferRequest, progress mover.Progress) (mover.Transferred, error) {
	for i := range 100 {
		progress(mover.Report{Phase: "transfer", Done: int64(i), Total: 100, Pack: fmt.Sprint(i)})
		progress(mover.Report{Phase: "transfer", Done: int64(i), Total: 100})
	}
	return mover.Transferred{}, nil
}

// TestASocketIsForItsOwnerOnly, a stale one is replaced, a live one is not.
func TestASocketIsForItsOwnerOnly(t *testing.T) {
	path := filepath.Join(t.TempDir(), "mover.sock")
	l, err := Listen(path)
	if err != nil {
		t.Fatal(err)
	}
	info, err := os.Lstat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("mode %v %v", info.Mode(), err)
	}
	accepted := make(chan struct{})
	go func() {
		defer close(accepted)
		if conn, err := l.Accept(); err == nil {
			_ = conn.Close()
		}
	}()
	if _, err := Listen(path); err == nil {
		t.Error("a socket that somebody answers on was taken over")
	}
	<-accepted
	// A crash leaves the file without a listener.
	if err := l.(*socketListener).Listener.Close(); err != nil {
		t.Fatal(err)
	}
	again, err := Listen(path)
	if err != nil {
		t.Fatalf("a stale socket was not replaced: %v", err)
	}
	_ = again.Close()
	if err := os.WriteFile(path, []byte("mine"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Listen(path); err == nil {
		t.Error("a file that is no socket was replaced")
	}
}

// TestAURLThatIsNoneIsAConfigError at the first call.
func TestAURLThatIsNoneIsAConfigError(t *testing.T) {
	for _, u := range []string{"", "http://x", "unix://relative", "unix:", "::"} {
		if _, err := Dial(u).Facts(t.Context()); !backstay.IsCode(err, backstay.CodeConfig) {
			t.Errorf("%q: %v", u, err)
		}
	}
}
