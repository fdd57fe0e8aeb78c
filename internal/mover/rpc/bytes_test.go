package rpc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// opened is a world in which a session of a point is open.
func opened(t *testing.T, tm timing) *world {
	t.Helper()
	w := serveFake(t, tm)
	ctx := t.Context()
	vm := w.fake.Machine
	_, err := w.client.Prepare(ctx, mover.PrepareRequest{Job: "j", Point: "p", VM: vm.ID, Disks: []backstay.DiskTarget{"vda", "vdb"}})
	if err == nil {
		_, err = w.client.Take(ctx, mover.TakeRequest{Job: "j", Point: "p", VM: vm.ID})
	}
	if err == nil {
		_, err = w.client.OpenFiles(ctx, mover.OpenFilesRequest{Session: "s", Point: "p", Tier: backstay.SnapshotTier, Expires: time.Now().Add(time.Hour)}, nil)
	}
	if err != nil {
		t.Fatal(err)
	}
	return w
}

type writerFunc func([]byte) (int, error)

func (f writerFunc) Write(p []byte) (int, error) { return f(p) }

var big = mover.FileReadRequest{Session: "s", Volume: "vda1", Path: "/big", Length: -1}

// TestBytesArriveAsTheyWereWritten however long they are, other calls between them.
func TestBytesArriveAsTheyWereWritten(t *testing.T) {
	w := opened(t, quick())
	var got bytes.Buffer
	if err := w.client.ReadFile(t.Context(), big, &got); err != nil {
		t.Fatal(err)
	}
	if want := w.fake.Volumes[0].Files["/big"].Content; !bytes.Equal(got.Bytes(), want) {
		t.Errorf("%d bytes of %d, or others", got.Len(), len(want))
	}
	got.Reset()
	part := big
	part.Offset, part.Length = 5, 3
	if err := w.client.ReadFile(t.Context(), part, &got); err != nil || got.String() != "567" {
		t.Errorf("%q, %v", got.String(), err)
	}
	odd := big
	odd.Path = "/etc/b\xffd"
	got.Reset()
	if err := w.client.ReadFile(t.Context(), odd, &got); err != nil || got.String() != "no UTF-8\n" {
		t.Errorf("%q, %v", got.String(), err)
	}
}

// TestAnErrorAfterHalfOfTheBytesIsAnError, with its code.
func TestAnErrorAfterHalfOfTheBytesIsAnError(t *testing.T) {
	w := opened(t, quick())
	var pieces atomic.Int64
	w.fake.Hook = func(_ context.Context, method string) error {
		if method == "piece" && pieces.Add(1) == 8 {
			w.fake.EndSession("s", "room was needed")
		}
		return nil
	}
	var got bytes.Buffer
	err := w.client.ReadFile(t.Context(), big, &got)
	if !backstay.IsCode(err, backstay.CodeSessionEnded) || !strings.Contains(err.Error(), "room was needed") {
		t.Errorf("%v after %d bytes", err, got.Len())
	}
}

// TestACutIsNeverTakenForTheEnd, wherever it is: between lines, within the bytes of a
// piece, before the last line.
func TestACutIsNeverTakenForTheEnd(t *testing.T) {
	for _, sent := range []string{"", "{}\n", `{"bytes":10}` + "\n", `{"bytes":10}` + "\n01234", `{"bytes":10}` + "\n0123456789", `{"bytes":10}` + "\n0123456789{}\n", `{"resu`} {
		url := fakeHost(t, protocolNumber(), func(w http.ResponseWriter, _ *http.Request) {
			_, _ = io.WriteString(w, sent)
			_ = http.NewResponseController(w).Flush()
		})
		var got bytes.Buffer
		if err := dial(url, quick()).ReadFile(t.Context(), big, &got); !backstay.IsCode(err, backstay.CodeHostAway) {
			t.Errorf("%q: %v after %q", sent, err, got.String())
		}
	}
}

// TestBytesThatNobodyAskedForEndTheCall rather than fill the memory.
func TestBytesThatNobodyAskedForEndTheCall(t *testing.T) {
	for _, sent := range []string{`{"bytes":-1}`, fmt.Sprintf(`{"bytes":%d}`, maxPiece+1)} {
		url := fakeHost(t, protocolNumber(), func(w http.ResponseWriter, _ *http.Request) { _, _ = fmt.Fprintln(w, sent) })
		if err := dial(url, quick()).ReadFile(t.Context(), big, io.Discard); !backstay.IsCode(err, backstay.CodeHostAway) {
			t.Errorf("%s: %v", sent, err)
		}
	}
	url := fakeHost(t, protocolNumber(), func(w http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(w, "{\"bytes\":1}\nx") })
	if _, err := dial(url, quick()).Facts(t.Context()); !backstay.IsCode(err, backstay.CodeHostAway) {
		t.Errorf("bytes of a call that has none: %v", err)
	}
}

// endless is a mover whose files do not end.
type endless struct {
	*movertest.Fake
	written atomic.Int64
	ended   chan error
}

func (e *endless) ReadFile(ctx context.Context, _ mover.FileReadRequest, w io.Writer) error {
	piece := make([]byte, 64<<10)
	for {
		if _, err := w.Write(piece); err != nil {
			e.ended <- context.Cause(ctx)
			return err
		}
		e.written.Add(int64(len(piece)))
	}
}

func serveEndless(t *testing.T, tm timing) (*endless, *Client) {
	t.Helper()
	w := &world{fake: movertest.NewFake(key), path: t.TempDir() + "/s"}
	e := &endless{Fake: w.fake, ended: make(chan error, 1)}
	l, err := Listen(w.path)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- serve(ctx, l, e, w.logs.logger(), tm) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
	})
	return e, dial("unix://"+w.path, tm)
}

// TestWhoReadsSlowlyIsNotGone: the host waits, holds no more than what is on the way,
// and other calls go on.
func TestWhoReadsSlowlyIsNotGone(t *testing.T) {
	tm := quick()
	tm.silence = 200 * time.Millisecond
	e, client := serveEndless(t, tm)
	enough := errors.New("enough")
	stalled := false
	err := client.ReadFile(t.Context(), big, writerFunc(func(p []byte) (int, error) {
		if !stalled {
			stalled = true
			for range 20 { // four times the silence that is borne
				if _, err := client.Facts(t.Context()); err != nil {
					t.Errorf("another call: %v", err)
				}
				time.Sleep(tm.silence / 5)
			}
			if n := e.written.Load(); n > 8<<20 {
				t.Errorf("%d bytes were written to somebody who read %d", n, len(p))
			}
			return len(p), nil
		}
		if e.written.Load() > 16<<20 {
			return 0, enough
		}
		return len(p), nil
	}))
	if !errors.Is(err, enough) {
		t.Errorf("%v", err)
	}
	<-e.ended
}

// TestACancelledStreamEndsOnBothSides, also while the host waits for room.
func TestACancelledStreamEndsOnBothSides(t *testing.T) {
	e, client := serveEndless(t, quick())
	ctx, cancel := context.WithCancelCause(t.Context())
	err := client.ReadFile(ctx, big, writerFunc(func(p []byte) (int, error) {
		cancel(backstay.ErrCancelled)
		return len(p), nil
	}))
	if !backstay.IsCode(err, backstay.CodeCancelled) || !errors.Is(err, backstay.ErrCancelled) {
		t.Errorf("%v", err)
	}
	if cause := <-e.ended; !errors.Is(cause, errCancelled) {
		t.Errorf("the host's side ended because %v", cause)
	}
}

// TestAVanishedReaderEndsTheStream on the host, which waits for room.
func TestAVanishedReaderEndsTheStream(t *testing.T) {
	e, client := serveEndless(t, quick())
	path := strings.TrimPrefix(client.url, "unix://")
	conn := rawStream(t, path)
	for e.written.Load() == 0 {
		time.Sleep(time.Millisecond)
	}
	if err := conn.Close(); err != nil {
		t.Fatal(err)
	}
	if cause := <-e.ended; !errors.Is(cause, errGone) {
		t.Errorf("the host's side ended because %v", cause)
	}
}

func rawStream(t *testing.T, path string) net.Conn { return rawCall(t, path, "ReadFile") }

// TestAVolumesKeyTravelsAndIsPrintedNowhere.
func TestAVolumesKeyTravelsAndIsPrintedNowhere(t *testing.T) {
	w := opened(t, quick())
	r := mover.UnlockRequest{Session: "s", Volume: "vdb1", Kind: backstay.KeyPassphrase, Key: backstay.NewSecret([]byte("no such word"))}
	_, err := w.client.UnlockVolume(t.Context(), r)
	if !backstay.IsCode(err, backstay.CodeVolumeKey) || strings.Contains(err.Error()+w.logs.String(), "no such word") {
		t.Errorf("%v", err)
	}
	r.Key = backstay.NewSecret([]byte(movertest.FakePassphrase))
	volumes, err := w.client.UnlockVolume(t.Context(), r)
	if err != nil || volumes[1].Kind != backstay.VolumeFiles || strings.Contains(w.logs.String(), movertest.FakePassphrase) {
		t.Errorf("%+v, %v", volumes, err)
	}
}
