package quiesce

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"os"
	"os/exec"
	"sync"
	"syscall"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// The guard's protocol: one JSON object a line, an order down and an answer up.
// Nothing secret goes over it. The end of the orders means that whoever gave
// them is gone.
type order struct {
	// The first order says what to guard.
	Libvirt string        `json:"libvirt,omitempty"`
	VM      backstay.VMID `json:"vm,omitempty"`
	// Later ones say what to do: arm, disarm or fire.
	Do       string `json:"do,omitempty"`
	BudgetMs int64  `json:"budgetMs,omitempty"`
	Paused   bool   `json:"paused,omitempty"`
}

type report struct {
	OK    bool   `json:"ok"`
	Fired Moment `json:"fired,omitempty"`
	Error string `json:"error,omitempty"`
}

// Processes makes guards that are processes of their own, in sessions of their
// own, so that they outlive this one.
type Processes struct {
	// Command is what to run; it must end up in Serve.
	Command []string
	// Libvirt is the URI that the guard connects to.
	Libvirt string
}

// How long a guard may take to answer.
const (
	startPatience = 10 * time.Second
	armPatience   = 2 * time.Second
)

// Start starts a guard and waits until it is connected.
func (p Processes) Start(ctx context.Context, vm backstay.VMID) (Guard, error) {
	if len(p.Command) == 0 {
		return nil, errors.New("start guard: there is no command for it")
	}
	cmd := exec.Command(p.Command[0], p.Command[1:]...)
	cmd.SysProcAttr = &syscall.SysProcAttr{Setsid: true}
	cmd.Env = []string{"GOMAXPROCS=1", "GOMEMLIMIT=32MiB"}
	cmd.Dir = "/"
	cmd.Stderr = os.Stderr
	in, err := cmd.StdinPipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	out, err := cmd.StdoutPipe()
	if err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	if err := cmd.Start(); err != nil {
		return nil, fmt.Errorf("start guard: %w", err)
	}
	g := &processGuard{in: in, reports: make(chan report, 4)}
	go g.listen(cmd, out)
	if _, err := g.order(order{Libvirt: p.Libvirt, VM: vm}, startPatience, ctx.Done()); err != nil {
		_ = in.Close()
		return nil, fmt.Errorf("start guard: %w", err)
	}
	return g, nil
}

type processGuard struct {
	in      io.WriteCloser
	reports chan report
	close   sync.Once
}

// listen passes on what the process says, and waits for its end.
func (g *processGuard) listen(cmd *exec.Cmd, out io.Reader) {
	defer close(g.reports)
	d := json.NewDecoder(out)
	for {
		var r report
		if d.Decode(&r) != nil {
			break
		}
		g.reports <- r
	}
	_ = cmd.Wait()
}

func (g *processGuard) order(o order, patience time.Duration, done <-chan struct{}) (report, error) {
	if err := json.NewEncoder(g.in).Encode(o); err != nil {
		return report{}, guardError(err)
	}
	timer := time.NewTimer(patience)
	defer timer.Stop()
	select {
	case r, ok := <-g.reports:
		switch {
		case !ok:
			return r, errGuardGone
		case !r.OK:
			return r, fmt.Errorf("the guard answered: %s", r.Error)
		}
		return r, nil
	case <-timer.C:
		return report{}, fmt.Errorf("the guard did not answer within %v", patience)
	case <-done:
		return report{}, context.Canceled
	}
}

// Arm implements Guard.
func (g *processGuard) Arm(budget time.Duration, paused bool) error {
	_, err := g.order(order{Do: "arm", BudgetMs: budget.Milliseconds(), Paused: paused}, armPatience, nil)
	return err
}

// Disarm implements Guard.
func (g *processGuard) Disarm() (Moment, error) {
	defer g.end()
	r, err := g.order(order{Do: "disarm"}, armPatience, nil)
	return r.Fired, err
}

// Fire implements Guard. The end of the orders does the same.
func (g *processGuard) Fire() {
	_ = json.NewEncoder(g.in).Encode(order{Do: "fire"})
	g.end()
}

func (g *processGuard) end() { g.close.Do(func() { _ = g.in.Close() }) }

// Open connects a guard to the hypervisor that a URI names.
type Open func(ctx context.Context, uri string) (guests hypervisor.Guests, closeIt func() error, err error)

// Serve is a guard process: it takes orders from in until that ends or ctx does,
// lets the VM go if it must, and returns when there is nothing left to do.
func Serve(ctx context.Context, in io.Reader, out io.Writer, open Open, log *slog.Logger) error {
	orders := make(chan order)
	gone := make(chan struct{})
	defer close(gone)
	go readOrders(in, orders, gone)
	answer := json.NewEncoder(out)
	first, ok := <-orders
	if !ok {
		return errors.New("guard: nobody said what to guard")
	}
	// Its connection must last longer than ctx: SIGTERM means that it has work.
	guests, closeIt, err := open(context.WithoutCancel(ctx), first.Libvirt)
	if err != nil {
		_ = answer.Encode(report{Error: err.Error()})
		return fmt.Errorf("guard: %w", err)
	}
	defer func() { _ = closeIt() }()
	k := newKeeper(guests, first.VM, log)
	_ = answer.Encode(report{OK: true})
	k.serve(ctx, orders, answer)
	if done := k.letting(); done != nil {
		<-done
	}
	return nil
}

// serve takes orders until nobody gives any, or the guard has become needless.
func (k *keeper) serve(ctx context.Context, orders <-chan order, answer *json.Encoder) {
	for {
		select {
		case <-ctx.Done():
			k.fire("the guard is to end")
			return
		case o, ok := <-orders:
			switch {
			case !ok:
				k.fire("the process that froze the guest is gone")
				return
			case o.Do == "arm":
				k.arm(time.Duration(o.BudgetMs)*time.Millisecond, o.Paused)
				_ = answer.Encode(report{OK: true})
			case o.Do == "disarm":
				_ = answer.Encode(report{OK: true, Fired: k.disarm()})
				return
			case o.Do == "fire":
				k.fire("it was told to")
			default:
				_ = answer.Encode(report{Error: "unknown order"})
			}
		}
	}
}

func readOrders(in io.Reader, orders chan<- order, gone <-chan struct{}) {
	defer close(orders)
	d := json.NewDecoder(bufio.NewReader(in))
	for {
		var o order
		if d.Decode(&o) != nil {
			return
		}
		select {
		case orders <- o:
		case <-gone:
			return
		}
	}
}
