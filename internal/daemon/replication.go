package daemon

import (
	"cmp"
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/replicate"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/server"
	"github.com/backstay/backstay/internal/tier/vault"
)

// replicateTick is how often it is looked whether anything is to be pushed, besides
// after each backup.
const replicateTick = time.Minute

// patience are the pauses after which what failed on the way to another region is
// tried again, before the job ends.
var patience = []time.Duration{time.Second, 2 * time.Second, 4 * time.Second, 8 * time.Second, 15 * time.Second, 30 * time.Second}

// replication pushes this region's GRS vaults to the paired region. It implements
// server.Replications.
type replication struct {
	*region
	runner *replicate.Runner
	wake   chan struct{} // has one entry after something was written to a vault
}

func newReplication(r *region) *replication {
	p := &replication{region: r, wake: make(chan struct{}, 1)}
	p.runner = &replicate.Runner{
		Catalog: r.catalog, Now: utcNow, Open: p.open, Holder: r.regions.holder, Patience: patience,
		Pace: func(name backstay.RegionName) replicate.Pace { return pairPace{r, name} },
	}
	return p
}

// run is the runner of replicate jobs.
func (p *replication) run(ctx context.Context, run backstay.Run, params backstay.ReplicateParams) error {
	long, ok := run.(backstay.LongRun)
	if !ok {
		return fmt.Errorf("run a replication: %T cannot tell of its tasks", run)
	}
	return p.runner.Run(ctx, long, params)
}

// pairPace is when and how fast this region may push to another. The rate is kept
// by what holder returns.
type pairPace struct {
	region *region
	name   backstay.RegionName
}

// Open implements replicate.Pace.
func (p pairPace) Open(ctx context.Context) error {
	rec, err := p.region.regions.record(ctx, p.name)
	if err != nil {
		return err
	}
	if rec.Paused {
		return replicate.ErrPaused
	}
	windows, err := p.region.config.Pair.Open()
	if err != nil {
		return err // the configuration was checked
	}
	if open, until := windows.Open(time.Now()); !open {
		return fmt.Errorf("the window for replication opens at %s", until.Format("Mon 15:04"))
	}
	return nil
}

// Wait implements replicate.Pace.
func (p pairPace) Wait(context.Context, int) error { return nil }

// open opens a vault to be pushed, after the paired region was made one of its
// recipients.
func (p *replication) open(ctx context.Context, name backstay.VaultName) (replicate.Source, error) {
	entry, err := p.vaults.entry(ctx, name)
	if err != nil {
		return nil, err
	}
	if err := p.share(ctx, entry); err != nil {
		// It can be held without being read; the next job tries again.
		p.log.Warn("the paired region is no recipient of the vault yet", "vault", name, "region", entry.Pair, "error", err)
	}
	opened, err := p.vaults.open(ctx, name)
	if err != nil {
		return nil, err
	}
	err = p.vaults.witness(ctx, name, opened)
	var out *vault.Outgoing
	if err == nil {
		out, err = opened.Outgoing()
	}
	if err != nil {
		return nil, errors.Join(err, opened.Close())
	}
	return outgoing{out, opened}, nil
}

// share makes the server of the paired region a recipient of the vault, so that it
// can restore from its replica with this region gone.
func (p *replication) share(ctx context.Context, entry backstay.Vault) error {
	rec, err := p.regions.record(ctx, entry.Pair)
	if err != nil || rec.Recipient == "" {
		return err
	}
	keys, err := p.vaults.VaultKeys(ctx, entry.Name)
	if err != nil {
		return err
	}
	if slices.ContainsFunc(keys.Recipients, func(r backstay.VaultRecipient) bool { return r.Recipient == rec.Recipient }) {
		return nil
	}
	_, err = p.vaults.AddRecipient(ctx, entry.Name, server.NewRecipient{Recipient: rec.Recipient, Purpose: backstay.ForServer, Label: "region " + string(entry.Pair)})
	if backstay.IsCode(err, backstay.CodeExists) {
		return nil
	}
	if err == nil {
		p.log.Info("the paired region can read the vault", "vault", entry.Name, "region", entry.Pair)
	}
	return err
}

// outgoing shows a vault as the engine wants to see it.
type outgoing struct {
	*vault.Outgoing
	opened *vault.Vault
}

// Offer implements replicate.Source.
func (o outgoing) Offer(ctx context.Context) (pair.Offer, error) {
	head, err := o.Look(ctx)
	id, name, created := o.Identity()
	return pair.Offer{ID: id, Name: name, Created: created, Head: head}, err
}

// Points implements replicate.Source.
func (o outgoing) Points(context.Context) ([]backstay.PointID, error) {
	return o.Outgoing.Points(), nil
}

// Needs implements replicate.Source.
func (o outgoing) Needs(ctx context.Context, id backstay.PointID) (replicate.Needs, error) {
	packs, moved, manifest, err := o.Outgoing.Needs(ctx, id)
	return replicate.Needs{Packs: packs, Moved: moved, Manifest: manifest}, err
}

// Names implements replicate.Source.
func (o outgoing) Names(ctx context.Context, class replicate.Class) ([]string, error) {
	switch class {
	case replicate.Frame:
		return o.Frame(), nil
	case replicate.Indexes:
		return o.Indexes(ctx)
	case replicate.Chain:
		return o.Chain(ctx)
	}
	return nil, fmt.Errorf("no class of objects %q", class)
}

// Read implements replicate.Source.
func (o outgoing) Read(ctx context.Context, name string) (pair.Object, []byte, error) {
	data, sum, err := o.Outgoing.Read(ctx, name)
	if errors.Is(err, blob.ErrNotExist) {
		err = fmt.Errorf("%w: %w", replicate.ErrGone, err)
	}
	return pair.Object{Name: name, Size: int64(len(data)), Sum: sum}, data, err
}

// Close implements replicate.Source.
func (o outgoing) Close() error { return o.opened.Close() }

// jobChanged looks for something to push after a job that wrote to a vault.
func (p *replication) jobChanged(j backstay.Job) {
	if j.Kind == backstay.JobBackup && j.State.Ended() || j.Kind == backstay.JobReplicate && j.State == backstay.JobSucceeded {
		p.poke()
	}
}

// poke has the next look at what is to be pushed taken at once.
func (p *replication) poke() {
	select {
	case p.wake <- struct{}{}:
	default:
	}
}

// schedule queues replications until ctx ends.
func (p *replication) schedule(ctx context.Context) {
	tick := time.NewTicker(replicateTick)
	defer tick.Stop()
	for {
		if err := p.queueReplications(ctx, utcNow()); err != nil && ctx.Err() == nil {
			p.log.Error("replications cannot be scheduled", "error", err)
		}
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		case <-p.wake:
		}
	}
}

// replicated are the vaults that are pushed, each with its region; of one whose
// region is not chosen yet it is, if there is one.
func (p *replication) replicated(ctx context.Context) ([]backstay.Vault, error) {
	all, err := p.catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return nil, fmt.Errorf("list vaults: %w", err)
	}
	var out []backstay.Vault
	for _, v := range all {
		if v.Redundancy != backstay.GRS || v.Origin != nil {
			continue
		}
		if v.Pair == "" {
			if v.Pair, err = p.choose(ctx, v.Name); err != nil {
				return nil, err
			}
		}
		out = append(out, v)
	}
	return out, nil
}

// choose gives a GRS vault its region: the one with which this one was paired
// first. Empty if there is none.
func (p *replication) choose(ctx context.Context, name backstay.VaultName) (backstay.RegionName, error) {
	chosen, err := firstPaired(ctx, p.catalog)
	if err != nil || chosen == "" {
		return "", err
	}
	return chosen, p.vaults.change(ctx, name, func(v *backstay.Vault) bool {
		if v.Pair != "" {
			chosen = v.Pair
			return false
		}
		v.Pair = chosen
		return true
	})
}

// firstPaired is the region with which this one was paired first.
func firstPaired(ctx context.Context, c *catalog.Catalog) (backstay.RegionName, error) {
	recs, err := c.Regions.ListRegions(ctx)
	if err != nil || len(recs) == 0 {
		return "", err
	}
	return slices.MinFunc(recs, func(a, b catalog.RegionRecord) int {
		return cmp.Or(a.Paired.Compare(b.Paired), cmp.Compare(a.Name, b.Name))
	}).Name, nil
}

// queueReplications queues a job for each vault that has something to push and is
// not kept from it.
func (p *replication) queueReplications(ctx context.Context, now time.Time) error {
	vaults, err := p.replicated(ctx)
	if err != nil || len(vaults) == 0 {
		return err
	}
	jobs, err := p.queue.List(ctx, 0)
	if err != nil {
		return fmt.Errorf("list jobs: %w", err)
	}
	points, err := p.catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return fmt.Errorf("list points: %w", err)
	}
	for _, v := range vaults {
		params := backstay.ReplicateParams{Vault: v.Name, Region: v.Pair}
		if state, reason := p.kept(ctx, v); state != "" {
			p.runner.Says(params, state, reason)
			continue
		}
		known := replicate.Replicated{Now: now}
		if i := slices.IndexFunc(jobs, func(j backstay.Job) bool { return j.Kind == backstay.JobReplicate && j.Target == string(v.Name) }); i >= 0 {
			known.Last = &jobs[i] // newest first
		}
		for _, point := range points {
			if point.Vault == v.Name && point.Has(backstay.VaultTier) {
				known.Points = append(known.Points, point)
			}
		}
		if known.Records, err = p.catalog.Replicas.ListReplicas(ctx, v.Name); err != nil {
			return err
		}
		if !known.Due(v.Pair) {
			continue
		}
		p.runner.Says(params, replicate.Idle, "")
		if _, err := p.queue.Submit(ctx, job.Request{Kind: backstay.JobReplicate, Target: string(v.Name), User: scheduler, Params: params}); err != nil {
			return fmt.Errorf("queue a replication of vault %s: %w", v.Name, err)
		}
	}
	return nil
}

// kept says in what state a replication is that may not begin, and why; an empty
// state if it may.
func (p *replication) kept(ctx context.Context, v backstay.Vault) (state, reason string) {
	if v.Pair == "" {
		return replicate.Waiting, "this region is not paired with another one"
	}
	err := pairPace{p.region, v.Pair}.Open(ctx)
	switch {
	case errors.Is(err, replicate.ErrPaused):
		return replicate.Paused, "somebody paused replication to region " + string(v.Pair)
	case err != nil:
		return replicate.Waiting, backstay.AsError(err).Error()
	}
	seen, err := p.regions.Region(ctx, v.Pair)
	if err == nil && seen.State != "connected" {
		return replicate.Waiting, fmt.Sprintf("region %s does not answer: %s", v.Pair, seen.Reason)
	}
	return "", ""
}

// Replications implements server.Replications.
func (p *replication) Replications(ctx context.Context) ([]backstay.Replication, error) {
	vaults, err := p.replicated(ctx)
	if err != nil {
		return nil, err
	}
	out := []backstay.Replication{}
	for _, v := range vaults {
		status, err := p.runner.Status(ctx, backstay.ReplicateParams{Vault: v.Name, Region: v.Pair})
		if err != nil {
			return nil, err
		}
		if state, reason := p.kept(ctx, v); state != "" && status.Job == "" {
			status.State, status.Reason = state, reason
		}
		out = append(out, status)
	}
	return out, nil
}

// PauseReplication implements server.Replications.
func (p *replication) PauseReplication(ctx context.Context, name backstay.RegionName, paused bool) (backstay.Region, error) {
	if _, err := p.regions.record(ctx, name); err != nil {
		return backstay.Region{}, err
	}
	err := p.catalog.Regions.ChangeRegions(ctx, func(known map[backstay.RegionName]catalog.RegionRecord) error {
		if rec, ok := known[name]; ok {
			rec.Paused = paused
			known[name] = rec
		}
		return nil
	})
	if err != nil {
		return backstay.Region{}, err
	}
	if !paused {
		p.poke()
	}
	return p.regions.Region(ctx, name)
}
