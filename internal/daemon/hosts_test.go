package daemon

import (
	"context"
	"errors"
	"log/slog"
	"path/filepath"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/mover/movertest"
)

func testHosts(t *testing.T) (*hosts, *movertest.Fake) {
	c, err := sqlite.Open(t.Context(), filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	h, m := newHosts(c, slog.New(slog.DiscardHandler), time.Now), movertest.NewFake([]byte("key"))
	h.add("east", m)
	return h, m
}

// follow lets the host be followed until it was reached, or for a moment.
func follow(t *testing.T, h *hosts) error {
	ctx, cancel := context.WithCancel(t.Context())
	ended := make(chan error, 1)
	go func() { ended <- h.follow(ctx, "east") }()
	select {
	case err := <-ended:
		cancel()
		return err
	case <-h.states["east"].ready:
		cancel()
		<-ended
		return nil
	}
}

func TestAHostIsSweptBeforeJobsMayUseIt(t *testing.T) {
	h, m := testHosts(t)
	// Events and looks at the host's VMs come at any time once it is open.
	var sweeps atomic.Int32
	m.Hook = func(_ context.Context, method string) error {
		_, err := h.mover("east")
		switch {
		case method == "Sweep" && err == nil:
			t.Error("the host was open to jobs before its sweep")
		case method == "Sweep":
			sweeps.Add(1)
		case sweeps.Load() == 0:
			t.Errorf("%s came before the sweep", method)
		}
		return nil
	}
	if err := follow(t, h); err != nil {
		t.Fatal(err)
	}
	if sweeps.Load() != 1 {
		t.Errorf("it was swept %d times", sweeps.Load())
	}
	if _, err := h.mover("east"); err != nil {
		t.Errorf("a host that was reached: %v", err)
	}
}

func TestOneVMThatCannotBeMendedDoesNotLoseTheHost(t *testing.T) {
	h, m := testHosts(t)
	m.Hook = func(_ context.Context, method string) error {
		if method == "Sweep" {
			return errors.New("two files and no way to tell which is the newer")
		}
		return nil
	}
	if err := follow(t, h); err != nil {
		t.Fatalf("the host is lost: %v", err)
	}
}

func TestAHostThatIsAwayIsNotOpenedToJobs(t *testing.T) {
	h, m := testHosts(t)
	m.Hook = func(context.Context, string) error { return backstay.Errorf(backstay.CodeHostAway, "gone") }
	if err := follow(t, h); !backstay.IsCode(err, backstay.CodeHostAway) {
		t.Errorf("%v", err)
	}
	if _, err := h.mover("east"); !backstay.IsCode(err, backstay.CodeHostAway) {
		t.Errorf("%v", err)
	}
}

func TestWhileAJobRunsThereAHostIsSweptLater(t *testing.T) {
	h, _ := testHosts(t)
	leave := h.enter("east")
	if settled, err := h.settle(t.Context(), "east"); settled || err != nil {
		t.Errorf("with a job: settled %v, %v", settled, err)
	}
	leave()
	if settled, err := h.settle(t.Context(), "east"); !settled || err != nil {
		t.Errorf("without: settled %v, %v", settled, err)
	}
}
