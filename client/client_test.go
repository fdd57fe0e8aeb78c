package client_test

import (
	"context"
	"errors"
	"fmt"
	"io"
	"log"
	"net"
	"net/http"
	"net/http/httptest"
	"net/http/httputil"
	"net/url"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/backstay/backstay/internal/server/servertest"
	"go.uber.org/goleak"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

func start(t *testing.T) (*servertest.World, *client.Client) {
	t.Helper()
	w, err := servertest.Start(nil)
	if err != nil {
		t.Fatal(err)
	}
	c := client.New(w.URL, w.Tokens[backstay.Owner])
	t.Cleanup(func() {
		c.Close()
		http.DefaultTransport.(*http.Transport).CloseIdleConnections()
		if err := w.Close(); err != nil {
			t.Error(err)
		}
	})
	return w, c
}

func Example() {
	world, err := servertest.Start(nil) // instead of a server of yours
	if err != nil {
		log.Fatal(err)
	}
	defer world.Close()

	ctx := context.Background()
	c := client.New(world.URL, world.Tokens[backstay.Operator])
	defer c.Close()
	started, err := c.StartBackup(ctx, api.BackupRequest{VM: "web01"})
	if err != nil {
		log.Fatal(err)
	}
	job, err := c.Wait(ctx, started.Job.ID)
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(job.Kind, job.State, job.Target)
	// Output: backup succeeded local/web01
}

func ExampleClient_Point() {
	world, err := servertest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer world.Close()

	c := client.New(world.URL, world.Tokens[backstay.Reader])
	defer c.Close()
	point, err := c.Point(context.Background(), "web01@latest")
	if err != nil {
		log.Fatal(err)
	}
	fmt.Println(point.Time.Format(time.RFC3339), point.Consistency)
	// Output: 2026-11-22T11:00:00Z file-system
}

func ExampleClient_StartRestore() {
	world, err := servertest.Start(nil)
	if err != nil {
		log.Fatal(err)
	}
	defer world.Close()

	c := client.New(world.URL, world.Tokens[backstay.Operator])
	defer c.Close()
	_, err = c.StartRestore(context.Background(), backstay.RestoreRequest{Kind: backstay.CreateVM, Point: "web01@latest", Name: "db01"})
	fmt.Println(backstay.AsError(err).Cause)
	// Output: a VM on local is called db01 already
}

func TestErrorsComeBackWithCodeAndExitCode(t *testing.T) {
	_, c := start(t)
	for _, want := range []struct {
		err  error
		code backstay.Code
		exit int
	}{
		{second(c.VM(t.Context(), "nobody")), backstay.CodeUnknownVM, 3},
		{second(c.VM(t.Context(), "mail")), backstay.CodeAmbiguousVM, 2},
		{second(c.StartBackup(t.Context(), api.BackupRequest{VM: "db01"})), backstay.CodeNotProtected, 4},
		{second(client.New(serverOf(t, c), "wrong").Hosts(t.Context())), backstay.CodeNotSignedIn, 5},
	} {
		e := backstay.AsError(want.err)
		if e == nil || e.Code != want.code || e.Kind.ExitCode() != want.exit || e.Cause == "" || e.Action == "" {
			t.Errorf("got %+v, want %s", e, want.code)
		}
	}
}

func second[T any](_ T, err error) error { return err }

func serverOf(t *testing.T, c *client.Client) string {
	t.Helper()
	return client.Address(c)
}

func TestAServerThatIsAwayIsSaidToBe(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := "http://" + l.Addr().String()
	l.Close()
	_, err = client.New(address, "x").Hosts(t.Context())
	e := backstay.AsError(err)
	if e.Code != backstay.CodeServerAway || e.Kind.ExitCode() != 7 || !strings.Contains(e.Message, address) {
		t.Errorf("got %+v", e)
	}
}

func TestWhatIsNotOurServerIsSaidToBe(t *testing.T) {
	other := httptest.NewServer(http.NotFoundHandler())
	defer other.Close()
	_, err := client.New(other.URL, "x").Hosts(t.Context())
	if !backstay.IsCode(err, backstay.CodeServerAway) || !strings.Contains(err.Error(), "not a backstay server") {
		t.Errorf("got %v", err)
	}
}

// A redirect must not carry the token to another server (I10).
func TestTheTokenDoesNotFollowARedirect(t *testing.T) {
	var got atomic.Value
	thief := httptest.NewServer(http.HandlerFunc(func(_ http.ResponseWriter, r *http.Request) { got.Store(r.Header.Get("Authorization")) }))
	defer thief.Close()
	other := httptest.NewServer(http.RedirectHandler(thief.URL, http.StatusTemporaryRedirect))
	defer other.Close()
	if _, err := client.New(other.URL, "secret").Hosts(t.Context()); err == nil {
		t.Error("a redirect was taken for an answer")
	}
	if v := got.Load(); v != nil {
		t.Errorf("the other server was asked, with %q", v)
	}
}

func TestFollowTakesABrokenStreamUpAgain(t *testing.T) {
	w, direct := start(t)
	w.Queue.Play(servertest.Hang)
	started, err := direct.StartBackup(t.Context(), api.BackupRequest{VM: "web01"})
	if err != nil {
		t.Fatal(err)
	}
	var streams atomic.Int64
	target, _ := url.Parse(w.URL)
	proxy := httputil.NewSingleHostReverseProxy(target)
	proxy.FlushInterval = -1
	front := httptest.NewServer(http.HandlerFunc(func(out http.ResponseWriter, r *http.Request) {
		if streams.Add(1) == 1 { // the first stream breaks in the middle
			ctx, cut := context.WithTimeout(r.Context(), 50*time.Millisecond)
			defer cut()
			r = r.WithContext(ctx)
		}
		defer func() { _ = recover() }() // the proxy aborts when its backend is cut off
		proxy.ServeHTTP(out, r)
	}))
	defer front.Close()
	c := client.New(front.URL, w.Tokens[backstay.Owner])
	defer c.Close()
	job, err := c.Follow(t.Context(), started.Job.ID, func(backstay.Job) {
		if streams.Load() == 2 {
			if _, err := direct.CancelJob(context.Background(), started.Job.ID); err != nil && !backstay.IsCode(err, backstay.CodeJobEnded) {
				t.Error(err)
			}
		}
	})
	if err != nil || job.State != backstay.JobCancelled || streams.Load() < 2 {
		t.Errorf("job %s, %d streams, %v", job.State, streams.Load(), err)
	}
}

func TestLeavingAJobLeavesItRunning(t *testing.T) {
	w, c := start(t)
	w.Queue.Play(servertest.Hang)
	started, err := c.StartBackup(t.Context(), api.BackupRequest{VM: "web01"})
	if err != nil {
		t.Fatal(err)
	}
	left := errors.New("left")
	ctx, leave := context.WithCancelCause(t.Context())
	_, err = c.Follow(ctx, started.Job.ID, func(job backstay.Job) {
		if job.Percent >= 75 {
			leave(left)
		}
	})
	if !errors.Is(err, left) {
		t.Errorf("got %v", err)
	}
	if job, err := c.Job(t.Context(), started.Job.ID); err != nil || job.State != backstay.JobRunning {
		t.Errorf("the job is %s, %v", job.State, err)
	}
}

func TestFollowOfAnUnknownJobDoesNotGoOnTrying(t *testing.T) {
	_, c := start(t)
	if _, err := c.Follow(t.Context(), "01JNONE", nil); !backstay.IsCode(err, backstay.CodeUnknownJob) {
		t.Errorf("got %v", err)
	}
}

func TestAFileStreamThatBreaksOffSaysThatTheServerStoppedAnswering(t *testing.T) {
	s := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		w.WriteHeader(http.StatusOK)
		w.(http.Flusher).Flush()
		panic(http.ErrAbortHandler)
	}))
	defer s.Close()
	c := client.New(s.URL, "token")
	defer c.Close()
	body, err := c.TakeFiles(t.Context(), "01K9ZQ4T5V0000000000000001", api.TakeRequest{Format: api.TakeItems})
	if err != nil {
		t.Fatal(err)
	}
	defer body.Close()
	// Whoever reads it must not mistake it for a stream that was sent cut.
	_, err = io.ReadAll(body)
	if !backstay.IsCode(err, backstay.CodeTransferFailed) || errors.Is(err, io.ErrUnexpectedEOF) {
		t.Errorf("got %v", err)
	}
}
