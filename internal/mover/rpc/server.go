package rpc

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"log/slog"
	"net"
	"net/http"
	"strconv"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Serve answers calls on the listener until ctx ends; it then cancels the calls
// that run, waits until they have undone what they must, and returns nil. Over
// a unix socket it hears only root and its own user.
func Serve(ctx context.Context, l net.Listener, m mover.Mover, log *slog.Logger) error {
	return serve(ctx, l, m, log, defaultTiming())
}

func serve(ctx context.Context, l net.Listener, m mover.Mover, log *slog.Logger, tm timing) error {
	base, cancel := context.WithCancelCause(context.WithoutCancel(ctx))
	defer cancel(nil)
	srv := &http.Server{
		Handler:           handler(base, m, log, tm),
		ReadHeaderTimeout: tm.silence,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelWarn),
	}
	stopped := make(chan error, 1)
	stop := context.AfterFunc(ctx, func() {
		cancel(errStopping)
		wait, done := context.WithTimeout(context.WithoutCancel(ctx), tm.grace)
		defer done()
		err := srv.Shutdown(wait)
		if err != nil {
			err = errors.Join(err, srv.Close())
		}
		stopped <- err
	})
	err := srv.Serve(peerListener{Listener: l, log: log})
	if stop() {
		return fmt.Errorf("serve the mover: %w", err)
	}
	if err := <-stopped; err != nil {
		return fmt.Errorf("stop the mover: %w", err)
	}
	return nil
}

// errStopping is why calls end when the host's side is asked to stop.
var errStopping = errors.New("the mover on the host is stopping")

// Handler returns the HTTP side of a mover, for a listener that the caller
// guards: Serve does it for a unix socket. Calls end when ctx does.
func Handler(ctx context.Context, m mover.Mover, log *slog.Logger) http.Handler {
	return handler(ctx, m, log, defaultTiming())
}

func handler(base context.Context, m mover.Mover, log *slog.Logger, tm timing) http.Handler {
	s := &side{base: base, mux: http.NewServeMux(), log: log, tm: tm}
	s.mux.HandleFunc("GET "+pathPrefix+"hello", func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", "application/json")
		_ = json.NewEncoder(w).Encode(hello{Protocol})
	})
	registerInventory(s, m)
	registerSnapshots(s, m)
	handle(s, "Lost", func(ctx context.Context, places []mover.PointPlace, _ func(none)) (map[backstay.PointID]string, error) {
		return m.Lost(ctx, places)
	})
	registerKeeps(s, m)
	registerHolds(s, m)
	registerTransfers(s, m)
	registerRestores(s, m)
	registerReplaces(s, m)
	registerLives(s, m)
	registerRooms(s, m)
	registerPulls(s, m)
	registerDeploys(s, m)
	registerSecrets(s, m)
	registerImports(s, m)
	registerStreams(s, m)
	registerFiles(s, m)
	registerIndexes(s, m)
	registerPuts(s, m)
	registerDrills(s, m)
	handle(s, "Adopt", func(ctx context.Context, r mover.AdoptRequest, _ func(none)) (none, error) {
		return none{}, m.Adopt(ctx, r)
	})
	return s.mux
}

func registerInventory(s *side, m mover.Mover) {
	handle(s, "Facts", func(ctx context.Context, _ none, _ func(none)) (backstay.HostFacts, error) { return m.Facts(ctx) })
	handle(s, "VMs", func(ctx context.Context, _ none, _ func(none)) ([]backstay.VM, error) { return m.VMs(ctx) })
	handle(s, "Watch", func(ctx context.Context, _ none, event func(backstay.VMID)) (none, error) {
		return none{}, m.Watch(ctx, event)
	})
	handle(s, "Paths", func(ctx context.Context, paths []string, _ func(none)) ([]mover.PathInfo, error) {
		return m.Paths(ctx, paths)
	})
}

func registerSnapshots(s *side, m mover.Mover) {
	handle(s, "Prepare", func(ctx context.Context, r prepareWire, _ func(none)) (mover.Prepared, error) {
		return m.Prepare(ctx, r.request())
	})
	handle(s, "Take", func(ctx context.Context, r mover.TakeRequest, _ func(none)) (mover.Taken, error) {
		return m.Take(ctx, r)
	})
	handle(s, "Settle", func(ctx context.Context, r settleWire, _ func(none)) (settledWire, error) {
		taken, found, err := m.Settle(ctx, r.VM, r.Point)
		return settledWire{taken, found}, err
	})
	handle(s, "Points", func(ctx context.Context, _ none, _ func(none)) ([]mover.Taken, error) { return m.Points(ctx) })
	handle(s, "DropPoint", func(ctx context.Context, p backstay.PointID, progress func(mover.Report)) (none, error) {
		return none{}, m.DropPoint(ctx, p, progress)
	})
	handle(s, "Sweep", func(ctx context.Context, live []backstay.JobID, _ func(none)) (mover.SweepReport, error) {
		return m.Sweep(ctx, live)
	})
	handle(s, "Release", func(ctx context.Context, vm backstay.VMID, progress func(mover.Report)) (mover.Released, error) {
		return m.Release(ctx, vm, progress)
	})
}

func registerKeeps(s *side, m mover.Mover) {
	handle(s, "Pin", func(ctx context.Context, r pinWire, _ func(none)) (none, error) {
		return none{}, m.Pin(ctx, r.Point, r.Pinned)
	})
	handle(s, "KeepMap", func(ctx context.Context, p backstay.PointID, progress func(mover.Report)) (none, error) {
		return none{}, m.KeepMap(ctx, p, progress)
	})
}

func registerHolds(s *side, m mover.Mover) {
	handle(s, "Ready", func(ctx context.Context, r mover.HoldRequest, _ func(none)) (none, error) {
		return none{}, m.Ready(ctx, r)
	})
	handle(s, "Hold", func(ctx context.Context, r mover.HoldRequest, _ func(none)) (mover.Held, error) {
		return m.Hold(ctx, r)
	})
	handle(s, "LetGo", func(ctx context.Context, r mover.HoldRequest, _ func(none)) (mover.Held, error) {
		return m.LetGo(ctx, r)
	})
}

func registerTransfers(s *side, m mover.Mover) {
	handle(s, "Transfer", func(ctx context.Context, r transferWire, progress func(mover.Report)) (mover.Transferred, error) {
		return m.Transfer(ctx, r.request(), progress)
	})
	handle(s, "Verify", func(ctx context.Context, r verifyWire, progress func(mover.Report)) (mover.Verified, error) {
		return m.Verify(ctx, r.request(), progress)
	})
}

func registerLives(s *side, m mover.Mover) {
	handle(s, "CopyBehind", func(ctx context.Context, r stageWire, progress func(mover.Report)) (none, error) {
		return none{}, m.CopyBehind(ctx, r.request(), progress)
	})
	handle(s, "Hurry", func(ctx context.Context, job backstay.JobID, _ func(none)) (none, error) {
		return none{}, m.Hurry(ctx, job)
	})
}

func registerRestores(s *side, m mover.Mover) {
	handle(s, "Stage", func(ctx context.Context, r stageWire, progress func(mover.Report)) (mover.Staged, error) {
		return m.Stage(ctx, r.request(), progress)
	})
	handle(s, "Define", func(ctx context.Context, r stageWire, _ func(none)) (mover.Defined, error) {
		return m.Define(ctx, r.request())
	})
	handle(s, "Start", func(ctx context.Context, r stageWire, _ func(none)) (mover.Up, error) {
		return m.Start(ctx, r.request())
	})
	handle(s, "Preview", func(ctx context.Context, r stageWire, _ func(none)) (mover.Preview, error) {
		return m.Preview(ctx, r.request())
	})
	handle(s, "Abandon", func(ctx context.Context, r stageWire, _ func(none)) (none, error) {
		return none{}, m.Abandon(ctx, r.request())
	})
}

func registerRooms(s *side, m mover.Mover) {
	handle(s, "Room", func(ctx context.Context, _ none, _ func(none)) ([]backstay.Room, error) { return m.Room(ctx) })
	handle(s, "Unstall", func(ctx context.Context, vm backstay.VMID, _ func(none)) (bool, error) { return m.Unstall(ctx, vm) })
}

func registerSecrets(s *side, m mover.Mover) {
	handle(s, "SecretStates", func(ctx context.Context, r secretsWire, _ func(none)) ([]mover.SecretState, error) {
		return m.SecretStates(ctx, r.request())
	})
	handle(s, "GiveSecrets", func(ctx context.Context, r giveWire, _ func(none)) (none, error) {
		return none{}, m.GiveSecrets(ctx, r.request())
	})
}

func registerPulls(s *side, m mover.Mover) {
	handle(s, "Pull", func(ctx context.Context, r pullWire, progress func(mover.Report)) (mover.Pulled, error) {
		return m.Pull(ctx, r.request(), progress)
	})
	handle(s, "EndPulls", func(ctx context.Context, vm backstay.VMID, _ func(none)) (none, error) {
		return none{}, m.EndPulls(ctx, vm)
	})
}

func registerDeploys(s *side, m mover.Mover) {
	handle(s, "Template", func(ctx context.Context, r stageWire, progress func(mover.Report)) (mover.Templated, error) {
		return m.Template(ctx, r.request(), progress)
	})
	handle(s, "Describe", func(ctx context.Context, r mover.DeployRequest, _ func(none)) (backstay.Deployment, error) {
		return m.Describe(ctx, r)
	})
	handle(s, "Deploy", func(ctx context.Context, r mover.DeployRequest, _ func(none)) (none, error) {
		return none{}, m.Deploy(ctx, r)
	})
}

// side is the host's side of the protocol.
type side struct {
	base context.Context // ends when the mover stops
	mux  *http.ServeMux
	log  *slog.Logger
	tm   timing
}

// handle serves one method: Q is its request, R its result, P what it reports
// on the way.
func handle[Q, R, P any](s *side, method string, fn func(context.Context, Q, func(P)) (R, error)) {
	serveMethod(s, method, func(ctx context.Context, c *serverCall, request Q) (any, error) {
		return fn(ctx, request, func(p P) { c.progress(p) })
	})
}

// serveMethod serves one method, whose request is a Q.
func serveMethod[Q any](s *side, method string, fn func(context.Context, *serverCall, Q) (any, error)) {
	s.mux.HandleFunc("POST "+pathPrefix+method, func(w http.ResponseWriter, r *http.Request) {
		c, ok := s.accept(method, w, r)
		if !ok {
			return
		}
		var request Q
		if err := c.receive(&request); err != nil {
			http.Error(w, "the request cannot be read: "+err.Error(), http.StatusBadRequest)
			return
		}
		c.run(func(ctx context.Context) (any, error) {
			return fn(ctx, c, request)
		})
	})
}

// accept begins a call if it speaks our protocol, and answers it otherwise.
func (s *side) accept(method string, w http.ResponseWriter, r *http.Request) (*serverCall, bool) {
	if got := r.Header.Get(protocolHeader); got != strconv.Itoa(Protocol) {
		http.Error(w, fmt.Sprintf("protocol %d is spoken here, not %q", Protocol, got), http.StatusConflict)
		return nil, false
	}
	return newServerCall(s, method, w, r), true
}

// coded returns the error as it may leave the host: always with a code. What
// failed only because the call was ended from outside says that.
func (s *side) coded(ctx context.Context, err error) *backstay.Error {
	cause := context.Cause(ctx)
	switch {
	case cause == nil || !errors.Is(err, ctx.Err()) && !errors.Is(err, cause):
		return backstay.AsError(err)
	case s.base.Err() != nil:
		return backstay.Errorf(backstay.CodeHostAway, "the call was ended by the host").Because(errStopping)
	default:
		return backstay.Errorf(backstay.CodeCancelled, "the call was cancelled").Because(cause)
	}
}

// later returns a deadline from now; the transport is the one place here that
// reads the clock.
func later(d time.Duration) time.Time { return time.Now().Add(d) }
