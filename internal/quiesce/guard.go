package quiesce

import (
	"context"
	"errors"
	"fmt"
	"log/slog"
	"strings"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Guards starts guards.
type Guards interface {
	// Start returns a guard of a VM that is ready: what it needs to let the VM go
	// it has already.
	Start(ctx context.Context, vm backstay.VMID) (Guard, error)
}

// Guard lets one VM go if nobody else does. It serves one time: Arm, then
// Disarm or Fire; a guard that was not armed ends with Disarm too.
type Guard interface {
	// Arm is called before the guest is frozen or paused. When it has returned the
	// VM is let go when the budget has passed, or when this process is gone.
	Arm(budget time.Duration, paused bool) error
	// Disarm ends the guard: the VM was let go. It returns when the guard itself
	// had begun to let it go; 0 if it had not. Only once.
	Disarm() (Moment, error)
	// Fire makes the guard let go now, and go on until it has, whatever becomes of
	// this process. It does not wait for that.
	Fire()
}

// LetGo resumes a VM that we paused and thaws whatever is frozen in it, and
// returns how many file systems that were. No error for a VM that is gone.
func LetGo(ctx context.Context, guests hypervisor.Guests, vm backstay.VMID, paused bool) (int, error) {
	if paused {
		if err := guests.Resume(ctx, vm); err != nil && !errors.Is(err, hypervisor.ErrNoVM) {
			return 0, err
		}
		return 0, nil
	}
	n, err := guests.Thaw(ctx, vm)
	if errors.Is(err, hypervisor.ErrNoVM) {
		return 0, nil
	}
	return n, err
}

// frozen asks the guest agent whether something is frozen.
func frozen(ctx context.Context, guests hypervisor.Guests, vm backstay.VMID) (bool, error) {
	answer, err := guests.AgentCommand(ctx, vm, `{"execute":"guest-fsfreeze-status"}`, agentPatience)
	return strings.Contains(answer, `"frozen"`), err
}

// How long a guard tries.
const (
	firstPause = 50 * time.Millisecond
	lastPause  = 3 * time.Second
	// lookAgain is after how long a guard makes sure: a call that the process that
	// died had made may be carried out after its death.
	lookAgain = 2 * time.Second
	// forgetAfter is when a guard gives up: the guest's agent has not answered for
	// a day, and whoever looks after the guest has noticed.
	forgetAfter = 24 * time.Hour
)

// keeper is what a guard consists of, whatever process it is in.
type keeper struct {
	guests hypervisor.Guests
	vm     backstay.VMID
	log    *slog.Logger
	again  time.Duration // lookAgain, or less for tests

	mu     sync.Mutex // all below
	armed  bool
	paused bool
	timer  *time.Timer
	fired  Moment
	done   chan struct{} // closed when the VM was let go by fire; nil before
}

func newKeeper(guests hypervisor.Guests, vm backstay.VMID, log *slog.Logger) *keeper {
	if log == nil {
		log = slog.New(slog.DiscardHandler)
	}
	return &keeper{guests: guests, vm: vm, log: log.With("vm", string(vm)), again: lookAgain}
}

func (k *keeper) arm(budget time.Duration, paused bool) {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed, k.paused = true, paused
	k.timer = time.AfterFunc(budget, func() { k.fire("the budget has passed") })
}

// disarm returns when the guard had begun to let go.
func (k *keeper) disarm() Moment {
	k.mu.Lock()
	defer k.mu.Unlock()
	k.armed = false
	if k.timer != nil {
		k.timer.Stop()
	}
	return k.fired
}

// fire lets go, once, if the guard is armed.
func (k *keeper) fire(why string) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if !k.armed || k.done != nil {
		return
	}
	k.timer.Stop()
	k.fired, k.done = now(), make(chan struct{})
	k.log.Warn("the guard lets a guest go", "reason", why)
	go k.letGo(k.paused, k.done)
}

// letting returns a channel that is closed when the guard has let go, or nil if
// it has not begun to.
func (k *keeper) letting() <-chan struct{} {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.done
}

func (k *keeper) letGo(paused bool, done chan struct{}) {
	defer close(done)
	ctx, cancel := context.WithTimeout(context.Background(), forgetAfter)
	defer cancel()
	n, ok := k.retry(ctx, func() (int, error) { return LetGo(ctx, k.guests, k.vm, paused) })
	if !ok {
		return
	}
	k.log.Info("the guard has let a guest go", "thawed", n, "resumed", paused)
	if paused {
		return
	}
	time.Sleep(k.again)
	k.retry(ctx, func() (int, error) {
		if was, err := frozen(ctx, k.guests, k.vm); err != nil || !was {
			return 0, err
		}
		return LetGo(ctx, k.guests, k.vm, false)
	})
}

// retry calls try until it succeeds or the VM is gone.
func (k *keeper) retry(ctx context.Context, try func() (int, error)) (n int, ok bool) {
	pause := firstPause
	for said := false; ; said = true {
		n, err := try()
		if err == nil || errors.Is(err, hypervisor.ErrNoVM) {
			return n, true
		}
		if !said {
			k.log.Warn("a guest cannot be let go yet; trying on", "error", err)
		}
		select {
		case <-ctx.Done():
			k.log.Error("a guest could not be let go", "error", err)
			return 0, false
		case <-time.After(pause):
			pause = min(2*pause, lastPause)
		}
	}
}

// Within makes guards inside this process. They keep to the budget, and not to
// the death of the process: what runs for real uses Processes.
func Within(guests hypervisor.Guests, log *slog.Logger) *Inside {
	return &Inside{guests: guests, log: log}
}

// Inside are the guards that Within makes.
type Inside struct {
	guests hypervisor.Guests
	log    *slog.Logger

	mu      sync.Mutex
	keepers []*keeper // guarded by mu
}

// Start implements Guards.
func (in *Inside) Start(_ context.Context, vm backstay.VMID) (Guard, error) {
	k := newKeeper(in.guests, vm, in.log)
	k.again = 0
	in.mu.Lock()
	defer in.mu.Unlock()
	in.keepers = append(in.keepers, k)
	return insideGuard{k}, nil
}

// Die does what the guards would do if the process that they look after ended
// now, and returns when they have. It is for tests.
func (in *Inside) Die() {
	in.mu.Lock()
	all := in.keepers
	in.keepers = nil
	in.mu.Unlock()
	for _, k := range all {
		k.fire("the process is gone")
		if done := k.letting(); done != nil {
			<-done
		}
	}
}

type insideGuard struct{ k *keeper }

func (g insideGuard) Arm(budget time.Duration, paused bool) error {
	g.k.arm(budget, paused)
	return nil
}
func (g insideGuard) Disarm() (Moment, error) { return g.k.disarm(), nil }
func (g insideGuard) Fire()                   { g.k.fire("it was told to") }

// errGuardGone: the guard's process ended.
var errGuardGone = errors.New("the guard that would thaw the guest is gone")

func guardError(err error) error { return fmt.Errorf("%w: %w", errGuardGone, err) }
