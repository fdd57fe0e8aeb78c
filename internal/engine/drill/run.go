package drill

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

const (
	cleaning = 5 * time.Minute  // how long it may take to take everything down
	again    = 2 * time.Second  // between two tries to take something down
	stopping = 45 * time.Second // how long that may take while the server stops
	keeping  = 30 * time.Second // to keep the record
	between  = time.Second      // between two looks at a VM
)

// errCutOff is why a drill ends that its server did not live to the end of.
var errCutOff = errors.New("the server was stopped while the drill ran")

// state is what a later life of the job must know.
type state struct {
	// Began is when the first life began to make anything; zero before.
	Began time.Time            `json:"began"`
	VMs   []backstay.DrilledVM `json:"vms"`
	Steps []backstay.DrillStep `json:"steps"`
	Notes []string             `json:"notes"`
	// Network says what the network is.
	Network string `json:"network"`
	// Healthy is when all VMs were; zero before.
	Healthy time.Time `json:"healthy"`
	// Failure is why the drill did not pass; Ended that nothing more is to be restored.
	Failure *backstay.Error `json:"failure"`
	Ended   bool            `json:"ended"`
}

// attempt is one life of one drill.
type attempt struct {
	*Runner
	run    backstay.Run
	mover  mover.Mover
	params backstay.DrillParams
	job    backstay.JobID

	mu    sync.Mutex
	state state // guarded by mu
}

// Run runs a drill that was planned. A life that finds that an earlier one was cut off
// takes down what that made, and records that: what it measured is worth nothing.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.DrillParams) error {
	a := &attempt{Runner: r, run: run, params: params, job: run.Job().ID}
	if _, err := run.Load(&a.state); err != nil {
		return err
	}
	var err error
	if a.mover, err = r.Mover(params.Host); err != nil {
		return err
	}
	var failure error
	switch {
	case a.state.Ended: // what came of it is known
	case !a.state.Began.IsZero():
		failure = errCutOff
	default:
		failure = a.drill(ctx)
	}
	if failure == nil && !a.state.Ended {
		failure = a.verdict()
	}
	kept := a.conclude(ctx, failure)
	left := a.clean(ctx) // whatever became of the catalogue
	if kept != nil {
		return kept
	}
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		return context.Cause(ctx) // the next life records it
	}
	record, err := a.record(ctx, left)
	if err != nil {
		return err
	}
	return outcome(ctx, record)
}

// outcome is how the job of a drill ends.
func outcome(ctx context.Context, r backstay.DrillRecord) error {
	switch {
	case r.Verdict == backstay.DrillPassed:
		return nil
	case errors.Is(context.Cause(ctx), backstay.ErrCancelled):
		return backstay.ErrCancelled
	case r.Cause != nil:
		return r.Cause
	}
	return backstay.Errorf(backstay.CodeDrillFailed, "the drill did not pass").Becausef("%s", r.Left)
}

// drill restores the VMs in order and tells whether they are well. What it makes is
// named by the job, so that it can be taken down whatever becomes of this process.
func (a *attempt) drill(ctx context.Context) error {
	a.state.Began, a.state.VMs, a.state.Notes = a.Now(), slices.Clone(a.params.VMs), a.params.Notes
	if err := a.run.Save(a.state); err != nil {
		return err
	}
	err := a.run.Step(ctx, "network", func(ctx context.Context) error {
		return a.step("", "network", func() error {
			n, err := a.mover.OpenDrill(ctx, mover.DrillRequest{Job: a.job, Network: a.params.Network, Subnet: a.params.Plan.Subnet})
			if err != nil {
				return err
			}
			a.change(func(s *state) {
				s.Network = n.Name + " " + n.Subnet
				if n.Note != "" {
					s.Notes = append(s.Notes, n.Note)
				}
			})
			return nil
		})
	})
	if err != nil {
		return err
	}
	return a.run.Step(ctx, "restore", func(ctx context.Context) error { return a.restoreAll(ctx) })
}

// restoreAll starts the VMs one after the other. After one that is not well no other
// is started: they may need it.
func (a *attempt) restoreAll(ctx context.Context) error {
	var watching sync.WaitGroup
	defer watching.Wait()
	ctx, cancel := context.WithCancelCause(ctx)
	defer cancel(nil)
	failed := ""
	for i, vm := range a.params.Plan.VMs {
		if failed != "" {
			a.fail(i, backstay.Errorf(backstay.CodeDrillFailed, "VM %s was not started", a.params.VMs[i].Name).Becausef("%s, before it, is not well", failed))
			continue
		}
		if err := a.Wait(ctx, time.Duration(vm.Delay)); err != nil {
			return context.Cause(ctx)
		}
		started, err := a.start(ctx, i)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err != nil {
			a.fail(i, backstay.AsError(err))
			failed = a.params.VMs[i].Name
			continue
		}
		if vm.NoWait {
			watching.Go(func() { a.watch(ctx, i, started) })
		} else if !a.watch(ctx, i, started) {
			failed = a.params.VMs[i].Name
		}
		a.run.Progress(int64(i+1), int64(len(a.params.Plan.VMs)))
		if err := a.save(); err != nil {
			return err
		}
	}
	watching.Wait()
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return nil
}

// request is that of one VM's restore. Each has a journal of its own on the host.
func (a *attempt) request(i int) mover.StageRequest {
	plan := a.params.Restores[i]
	if plan.Drill != nil {
		setting := *plan.Drill
		setting.Drill = a.job
		plan.Drill = &setting
	}
	r := mover.StageRequest{Job: backstay.JobID(fmt.Sprintf("%s-%d", a.job, i+1)), Plan: plan}
	if a.Services != nil {
		r.Services = a.Services()
	}
	return r
}

// start restores one VM and starts it.
func (a *attempt) start(ctx context.Context, i int) (started time.Time, err error) {
	r, name := a.request(i), a.params.VMs[i].Name
	if r.Plan.Tier == backstay.VaultTier {
		access, err := a.Vault(ctx, r.Plan.Vault)
		if err != nil {
			return started, err
		}
		r.Vault = &access
	}
	err = a.step(name, "restore", func() error {
		if _, err := a.mover.Stage(ctx, r, func(mover.Report) {}); err != nil {
			return err
		}
		defined, err := a.mover.Define(ctx, r)
		a.change(func(s *state) {
			for _, w := range defined.Warnings {
				s.Notes = append(s.Notes, name+": "+w)
			}
		})
		return err
	})
	if err != nil {
		return started, err
	}
	started = a.Now()
	return started, a.step(name, "start", func() error {
		_, err := a.mover.Start(ctx, r)
		return err
	})
}

// step notes how long something took.
func (a *attempt) step(vm, name string, do func() error) error {
	began := a.Now()
	err := do()
	a.change(func(s *state) {
		s.Steps = append(s.Steps, backstay.DrillStep{VM: vm, Name: name, Began: began, Ended: a.Now(), OK: err == nil})
	})
	return err
}

func (a *attempt) change(fn func(*state)) {
	a.mu.Lock()
	defer a.mu.Unlock()
	fn(&a.state)
}

func (a *attempt) save() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.run.Save(a.state)
}

// fail notes why a VM is not well.
func (a *attempt) fail(i int, why *backstay.Error) {
	a.change(func(s *state) { s.VMs[i].Error = why })
}

// verdict is nil if all VMs were healthy.
func (a *attempt) verdict() error {
	a.mu.Lock()
	defer a.mu.Unlock()
	for _, vm := range a.state.VMs {
		if vm.Error != nil {
			return backstay.Errorf(backstay.CodeDrillFailed, "the drill failed: VM %s was not well", vm.Source.Name).Because(vm.Error)
		}
	}
	a.state.Healthy = a.Now()
	return nil
}

// conclude keeps what came of the drill before anything is taken down.
func (a *attempt) conclude(ctx context.Context, failure error) error {
	a.mu.Lock()
	defer a.mu.Unlock()
	if a.state.Ended {
		return nil
	}
	a.state.Ended = true
	switch cause := context.Cause(ctx); {
	case failure == nil:
	case errors.Is(failure, errCutOff) || errors.Is(cause, backstay.ErrStopping):
		a.state.Failure = backstay.Errorf(backstay.CodeCancelled, "the drill was cut off").Because(errCutOff).Do("run it again")
	case cause != nil:
		a.state.Failure = backstay.Errorf(backstay.CodeCancelled, "the drill was cancelled").Because(cause).Do("run it again")
	default:
		a.state.Failure = backstay.AsError(failure)
	}
	return a.run.Save(a.state)
}

// clean takes everything down, whatever became of the drill, and says what is left.
func (a *attempt) clean(ctx context.Context) (left string) {
	limit := cleaning
	if errors.Is(context.Cause(ctx), backstay.ErrStopping) {
		limit = stopping
	}
	clean, cancel := context.WithTimeout(context.WithoutCancel(ctx), limit)
	defer cancel()
	work := func(context.Context) error {
		return a.step("", "clean", func() error {
			for {
				err := a.takeDown(clean)
				if err == nil {
					return nil
				}
				left = backstay.AsError(err).Error()
				if a.Wait(clean, again) != nil {
					return err
				}
			}
		})
	}
	var err error
	if ctx.Err() == nil {
		err = a.run.Step(ctx, "clean", work)
	} else {
		err = work(clean)
	}
	if err == nil {
		left = ""
	}
	return left
}

// takeDown removes the VMs, the last one first, then the network. What was never made
// is no error.
func (a *attempt) takeDown(ctx context.Context) error {
	var failed []error
	for i := range slices.Backward(a.params.Restores) {
		failed = append(failed, a.mover.Abandon(ctx, a.request(i)))
	}
	if err := errors.Join(failed...); err != nil {
		return err
	}
	return a.mover.CloseDrill(ctx, a.job)
}

// record keeps the evidence. A life that finds it kept keeps it as it is.
func (a *attempt) record(ctx context.Context, left string) (backstay.DrillRecord, error) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), keeping)
	defer cancel()
	kept, err := a.Catalog.Drills.AppendDrill(ctx, a.evidence(left))
	if err != nil {
		return kept, fmt.Errorf("keep the record of the drill: %w", err)
	}
	if a.Recorded != nil {
		a.Recorded(kept)
	}
	return kept, a.run.Update(func(j *backstay.Job) { j.Result.Drill, j.Result.Verdict = kept.ID, kept.Verdict })
}

func (a *attempt) evidence(left string) backstay.DrillRecord {
	a.mu.Lock()
	defer a.mu.Unlock()
	job, s := a.run.Job(), a.state
	r := backstay.DrillRecord{
		ID: backstay.DrillID(a.job), Plan: a.params.Plan, User: job.User, Region: a.Region, Host: a.params.Host,
		Started: s.Began.UTC(), Ended: a.Now().UTC(), VMs: s.VMs, Network: s.Network, Steps: s.Steps, Notes: s.Notes,
		Cleaned: left == "", Left: left, Cause: s.Failure, Verdict: backstay.DrillPassed,
	}
	if !s.Healthy.IsZero() {
		r.RTOSeconds = seconds(s.Healthy.Sub(s.Began))
	}
	r.RPOSeconds = rpo(s.VMs, s.Began)
	switch {
	case s.Failure != nil && s.Failure.Code == backstay.CodeCancelled:
		r.Verdict = backstay.DrillAborted
	case s.Failure != nil || left != "":
		r.Verdict = backstay.DrillFailed
	}
	return r
}

// Refused is the record of a drill that was due and could not even begin.
func (r *Runner) Refused(ctx context.Context, id backstay.DrillID, plan backstay.DrillPlan, why error) error {
	now := r.Now().UTC()
	kept, err := r.Catalog.Drills.AppendDrill(ctx, backstay.DrillRecord{
		ID: id, Plan: plan, User: "schedule", Region: r.Region, Host: plan.Host, Started: now, Ended: now,
		Verdict: backstay.DrillFailed, Cause: backstay.AsError(why), VMs: []backstay.DrilledVM{}, Steps: []backstay.DrillStep{}, Cleaned: true,
	})
	if err != nil {
		return fmt.Errorf("keep the record of a drill: %w", err)
	}
	if r.Recorded != nil {
		r.Recorded(kept)
	}
	return nil
}

// Retry is how long after a run of a plan that showed nothing the next is tried: a
// quarter of the interval, at least a minute and at most an hour.
func Retry(every backstay.Duration) time.Duration {
	return min(max(time.Duration(every)/4, time.Minute), time.Hour)
}

// rpo is how much older than the drill the oldest of its points is.
func rpo(vms []backstay.DrilledVM, began time.Time) *float64 {
	var most *float64
	for _, vm := range vms {
		if age := began.Sub(vm.PointTime); most == nil || age.Seconds() > *most {
			most = seconds(age)
		}
	}
	return most
}

// seconds to the millisecond: a record is read by people.
func seconds(d time.Duration) *float64 {
	s := d.Round(time.Millisecond).Seconds()
	return &s
}
