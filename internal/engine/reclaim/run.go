package reclaim

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Tasks are the steps of a reclaim job.
var Tasks = []string{"look", "repack", "condemn", "delete", "tidy"}

// List is one list of condemned packs, as the vault knows it.
type List struct {
	ID      string
	Packs   backstay.ObjectSum
	Rescued backstay.ObjectSum
	// Begun tells that its deletion had begun: the fence is in the vault.
	Begun bool
}

// Vault is what reclaim needs of a vault. Every method may be called again after
// it was cut off anywhere; none deletes what a visible point needs.
type Vault interface {
	// Plan looks at the whole vault and writes nothing. Of the lists in the trash
	// it knows their packs alone.
	Plan(ctx context.Context) (backstay.ReclaimPlan, []List, error)
	// Repack moves the needed chunks of the packs that the plan names.
	Repack(ctx context.Context) (backstay.ObjectSum, error)
	// Condemn puts what no point needs into the trash.
	Condemn(ctx context.Context) (backstay.ObjectSum, error)
	// Lists returns the lists of condemned packs, oldest first.
	Lists(ctx context.Context) ([]List, error)
	// Delete fences a list, looks anew, and deletes what is still not needed.
	Delete(ctx context.Context, list string) (deleted, rescued backstay.ObjectSum, err error)
	// Tidy joins index objects and removes what the chain no longer needs.
	Tidy(ctx context.Context) error
	// Close lets go of the vault.
	Close() error
}

// OpenOptions say what a reclaim of a vault may do.
type OpenOptions struct {
	NoRepack bool
	// Packs are those which an earlier life of the job put for a repack.
	Packs []string
	// OnPack is called with each pack that a repack made durable.
	OnPack   func(id string) error
	Progress func(done, total int64)
	// Writing tells what jobs under way have in hand.
	Writing func(context.Context) (Writing, error)
}

// Runner runs reclaim jobs.
type Runner struct {
	Catalog *catalog.Catalog
	// Open opens a vault for one reclaim.
	Open func(context.Context, backstay.VaultName, OpenOptions) (Vault, error)
	Now  func() time.Time
	// Trash is how long condemned packs stay when the job does not say.
	Trash time.Duration
}

// state is what a later life of a job needs.
type state struct {
	Packs []string           `json:"packs,omitempty"`
	Done  backstay.Reclaimed `json:"done"`
}

// Plan says what a reclaim would do now. It writes nothing, in the catalogue
// neither.
func (r *Runner) Plan(ctx context.Context, params backstay.ReclaimParams) (plan backstay.ReclaimPlan, err error) {
	v, err := r.Open(ctx, params.Vault, OpenOptions{NoRepack: params.NoRepack, Writing: r.writing(params.Vault)})
	if err != nil {
		return plan, err
	}
	defer func() { err = errors.Join(err, v.Close()) }()
	var lists []List
	if plan, lists, err = v.Plan(ctx); err != nil {
		return plan, err
	}
	known, err := r.known(ctx, params)
	if err != nil {
		return plan, err
	}
	plan.Vault, plan.At, plan.Trash = params.Vault, known.Now, Decide(lists, known)
	Sum(&plan, known.Delay, known.Running)
	return plan, nil
}

// known reads what the catalogue has.
func (r *Runner) known(ctx context.Context, params backstay.ReclaimParams) (Known, error) {
	k := Known{Delay: r.Trash, Now: r.Now()}
	if params.Trash != nil {
		k.Delay = time.Duration(*params.Trash)
	}
	var err error
	if k.Running, err = r.leases(ctx, params.Vault); err != nil {
		return k, err
	}
	if k.Records, err = r.Catalog.Trash.ListTrash(ctx, params.Vault); err != nil {
		return k, fmt.Errorf("list the trash of vault %s: %w", params.Vault, err)
	}
	return k, nil
}

func (r *Runner) leases(ctx context.Context, vault backstay.VaultName) ([]backstay.Lease, error) {
	jobs, err := r.pending(ctx, vault)
	return Leases(jobs, vault), err
}

// writing returns what asks the catalogue what jobs under way have in hand.
func (r *Runner) writing(vault backstay.VaultName) func(context.Context) (Writing, error) {
	return func(ctx context.Context) (Writing, error) {
		jobs, err := r.pending(ctx, vault)
		return InHand(jobs, vault), err
	}
}

func (r *Runner) pending(ctx context.Context, vault backstay.VaultName) ([]catalog.JobRecord, error) {
	jobs, err := r.Catalog.Jobs.ListJobs(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
	if err != nil {
		return nil, fmt.Errorf("list the jobs of vault %s: %w", vault, err)
	}
	return jobs, nil
}

// alone returns CodeConflict if another reclaim of the vault is ahead of the job.
func (r *Runner) alone(ctx context.Context, vault backstay.VaultName, job backstay.JobID) error {
	jobs, err := r.pending(ctx, vault)
	if err != nil {
		return err
	}
	at := slices.IndexFunc(jobs, func(j catalog.JobRecord) bool {
		return j.Kind == backstay.JobReclaim && j.Target == string(vault) && j.ID < job
	})
	if at < 0 {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "a reclaim of the vault %s is under way already", vault).
		Becausef("job %s is %s", jobs[at].ID, jobs[at].Job.State).Do("wait for it, or cancel it: `backstay job cancel %s`", jobs[at].ID)
}

// reclaimRun is one job in one of its lives.
type reclaimRun struct {
	*Runner
	run    backstay.Run
	params backstay.ReclaimParams
	vault  Vault
	state  state
}

// Run reclaims one vault. What was cut off is harmless, and a later life or run
// goes on with it; so there is nothing to undo.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.ReclaimParams) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	if err := r.alone(ctx, params.Vault, run.Job().ID); err != nil {
		return err
	}
	c := &reclaimRun{Runner: r, run: run, params: params}
	if _, err := run.Load(&c.state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	o := OpenOptions{NoRepack: params.NoRepack, Packs: c.state.Packs, Progress: run.Progress, Writing: r.writing(params.Vault), OnPack: func(id string) error {
		c.state.Packs = append(c.state.Packs, id)
		return run.Save(c.state)
	}}
	if c.vault, err = r.Open(ctx, params.Vault, o); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, c.vault.Close()) }()
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"look", c.look}, {"repack", c.repack}, {"condemn", c.condemn}, {"delete", c.delete}, {"tidy", c.vault.Tidy}} {
		if err := run.Step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

// look stops everything else if the vault is not in order (I6).
func (c *reclaimRun) look(ctx context.Context) error {
	_, _, err := c.vault.Plan(ctx)
	return err
}

func (c *reclaimRun) repack(ctx context.Context) error {
	if c.params.NoRepack {
		return nil
	}
	moved, err := c.vault.Repack(ctx)
	add(&c.state.Done.Moved, moved)
	if backstay.IsCode(err, backstay.CodeReclaimStopped) {
		// A chunk that no copy can show: what is not moved stays where it is, and
		// what nobody needs can go all the same.
		err = c.run.Warn("packs that are needed in part were left as they are: " + err.Error())
	}
	if err != nil {
		return errors.Join(err, c.save())
	}
	c.state.Packs = nil
	return c.save()
}

// condemn puts what is not needed into the trash, and notes who may still read
// it. The jobs are asked after the lists are in the vault: a job that began
// between is among them, or it saw the list.
func (c *reclaimRun) condemn(ctx context.Context) error {
	condemned, err := c.vault.Condemn(ctx)
	if err != nil {
		return err
	}
	add(&c.state.Done.Condemned, condemned)
	if err := c.note(ctx); err != nil {
		return err
	}
	return c.save()
}

// note makes a record of every list that has none.
func (c *reclaimRun) note(ctx context.Context) error {
	lists, err := c.vault.Lists(ctx)
	if err != nil {
		return err
	}
	running, err := c.leases(ctx, c.params.Vault)
	if err != nil {
		return err
	}
	for _, l := range lists {
		record := catalog.TrashRecord{Vault: c.params.Vault, List: l.ID, Since: c.Now(), Leases: running}
		if err := c.Catalog.Trash.PutTrash(ctx, record); err != nil && !errors.Is(err, catalog.ErrExists) {
			return fmt.Errorf("note the trash of vault %s: %w", c.params.Vault, err)
		}
	}
	return nil
}

// delete deletes what is due.
func (c *reclaimRun) delete(ctx context.Context) error {
	lists, err := c.vault.Lists(ctx)
	if err != nil {
		return err
	}
	known, err := c.known(ctx, c.params)
	if err != nil {
		return err
	}
	for _, d := range Decide(lists, known) {
		if !d.Ready {
			continue
		}
		if err := ctx.Err(); err != nil {
			return err
		}
		deleted, rescued, err := c.vault.Delete(ctx, d.List)
		add(&c.state.Done.Deleted, deleted)
		add(&c.state.Done.Rescued, rescued)
		if err != nil {
			return errors.Join(err, c.save())
		}
		if err := c.save(); err != nil {
			return err
		}
	}
	return c.forget(ctx, known.Records)
}

// forget removes the records of lists that are in the vault no more.
func (c *reclaimRun) forget(ctx context.Context, records []catalog.TrashRecord) error {
	lists, err := c.vault.Lists(ctx)
	if err != nil {
		return err
	}
	for _, r := range records {
		if slices.ContainsFunc(lists, func(l List) bool { return l.ID == r.List }) {
			continue
		}
		if err := c.Catalog.Trash.DeleteTrash(ctx, r.Vault, r.List); err != nil {
			return fmt.Errorf("forget the trash of vault %s: %w", r.Vault, err)
		}
	}
	return nil
}

// save keeps the state and shows what was done.
func (c *reclaimRun) save() error {
	if err := c.run.Save(c.state); err != nil {
		return err
	}
	done := c.state.Done
	return c.run.Update(func(j *backstay.Job) { j.Result.Reclaimed = &done })
}

func add(sum *backstay.ObjectSum, more backstay.ObjectSum) {
	sum.Objects += more.Objects
	sum.Bytes += more.Bytes
}
