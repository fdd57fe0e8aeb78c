package replicate

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync/atomic"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/pair"
)

const (
	// atOnce is how many objects are on their way at a time, each of which is in
	// memory meanwhile.
	atOnce = 6
	// lookEvery is how often it is looked whether there is a newer point, or somebody
	// paused replication.
	lookEvery = time.Second
)

// Runner runs replicate jobs.
type Runner struct {
	Catalog *catalog.Catalog
	Open    func(context.Context, backstay.VaultName) (Source, error)
	// Holder reaches the other region; what it returns is used by one job.
	Holder func(context.Context, backstay.RegionName) (pair.Holder, error)
	Pace   func(backstay.RegionName) Pace
	Now    func() time.Time
	// Patience are the pauses after which what failed on the way is tried again; then
	// the job fails.
	Patience []time.Duration
	// Nudge has giveWay look at once: for tests; nil else.
	Nudge chan struct{}
	// AtOnce is how many objects are on their way at a time; 0 for the default.
	AtOnce int

	progress board
}

// ErrPaused is what a Pace says if somebody paused replication.
var ErrPaused = errors.New("replication is paused")

// errLook ends what is being pushed, and is no failure: the vault has something
// new, or what was planned is not so any more.
var errLook = errors.New("look again")

// shutError ends a job, and is no failure: nothing may be pushed now.
type shutError struct{ why error }

func (e shutError) Error() string { return e.why.Error() }
func (e shutError) Unwrap() error { return e.why }

// pushing is one job in one of its lives.
type pushing struct {
	*Runner
	run    backstay.LongRun
	params backstay.ReplicateParams
	source Source
	holder pair.Holder
	pace   Pace
	meter  *meter

	id   string             // of the vault
	head backstay.VaultHead // of its chain when it was last looked
	// backlog are the points that were missing when the job began. What comes later goes
	// ahead of them at once, and is itself not interrupted: so each that was begun last
	// arrives, however many come.
	backlog map[backstay.PointID]bool
	times   map[backstay.PointID]time.Time
	asked   uint64 // the chain's newest record when it was last looked for a newer point
	gate    gate   // when it was last asked whether to go on
	stock   stock
	// failed are the points that this job leaves out, and why.
	failed map[backstay.PointID]error
	// stale counts how often a point's needs were not what they were said to be.
	stale                     map[backstay.PointID]int
	framed, vouched, surveyed bool
	// calls are those of the other region, as many as were tried.
	calls atomic.Int64
	// shut says why the job ends before all is pushed.
	shut error
}

// Run pushes what the region lacks of the vault. What was cut off is gone on with
// by the next job: nothing is undone, for what is there by then is not visible.
func (r *Runner) Run(ctx context.Context, run backstay.LongRun, params backstay.ReplicateParams) (err error) {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	p := &pushing{Runner: r, run: run, params: params, pace: r.Pace(params.Region), meter: r.progress.of(params, r.Now)}
	p.meter.begin(run.Job().ID)
	defer func() { p.meter.end(p.shut, err) }()
	defer func() { err = errors.Join(err, p.count()) }()
	if p.source, err = r.Open(ctx, params.Vault); err != nil {
		return err
	}
	defer func() { err = errors.Join(err, p.source.Close()) }()
	if p.holder, err = r.Holder(ctx, params.Region); err != nil {
		return err
	}
	p.stock.there, p.stock.lacks = map[string]bool{}, map[string]int64{}
	p.failed, p.stale = map[backstay.PointID]error{}, map[backstay.PointID]int{}
	return p.steps(ctx)
}

// steps runs the job's steps. One that may push nothing now ends the job: the next
// one goes on.
func (p *pushing) steps(ctx context.Context) error {
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"push", p.points}, {"chain", p.chain}} {
		err := p.run.Step(ctx, step.name, func(ctx context.Context) error {
			if p.shut == nil {
				err := step.do(ctx)
				if shut := (shutError{}); !errors.As(err, &shut) {
					return err
				}
				p.shut = err
			}
			return p.run.Note(step.name, p.shut.Error())
		})
		if err != nil {
			return err
		}
	}
	return nil
}

// count shows what the job sent, and with how many calls of the other region.
func (p *pushing) count() error {
	if p.id == "" {
		return nil // nothing was looked at
	}
	sent := p.meter.backlog(p.stock.sum())
	return p.run.Update(func(j *backstay.Job) {
		j.Stats.BytesNew += sent
		j.Stats.Requests += p.calls.Load()
	})
}

// points pushes points, newest first, until a look finds none that is missing.
func (p *pushing) points(ctx context.Context) error {
	for {
		missing, err := p.look(ctx)
		if err != nil {
			return err
		}
		if len(missing) == 0 {
			return p.warn()
		}
		for i, id := range missing {
			err := p.point(ctx, id)
			if errors.Is(err, errLook) {
				break
			}
			if err != nil {
				return err
			}
			if i == 0 {
				// The newest is safe: now there is time to count what else is missing.
				if err := p.survey(ctx, missing[1:]); err != nil {
					return err
				}
			}
			if p.changed(ctx) {
				break
			}
		}
	}
}

// warn tells of the points that were left out.
func (p *pushing) warn() error {
	ids := make([]backstay.PointID, 0, len(p.failed))
	for id := range p.failed {
		ids = append(ids, id)
	}
	slices.Sort(ids)
	for _, id := range ids {
		if err := p.run.Warn(fmt.Sprintf("point %s is not in region %s: %v", id, p.params.Region, p.failed[id])); err != nil {
			return err
		}
	}
	return nil
}

// look offers the vault, compares what is there with what is here, and brings the
// catalogue up to date. It returns what is missing, newest first.
func (p *pushing) look(ctx context.Context) ([]backstay.PointID, error) {
	if err := p.pace.Open(ctx); err != nil {
		return nil, shutError{err}
	}
	p.gate.passed(p.Now())
	offer, err := p.source.Offer(ctx)
	if err != nil {
		return nil, err
	}
	p.id, p.head = offer.ID, offer.Head
	var held pair.Held
	err = p.patiently(ctx, backstay.CodeRegionAway, func() (err error) {
		held, err = p.holder.Offer(ctx, offer)
		return err
	})
	if err != nil {
		return nil, err
	}
	points, err := p.source.Points(ctx)
	if err != nil {
		return nil, err
	}
	if err := p.record(ctx, points, held); err != nil {
		return nil, err
	}
	if err := p.frame(ctx); err != nil {
		return nil, err
	}
	p.vouch(ctx, points, held)
	missing := slices.DeleteFunc(Missing(points, held), func(id backstay.PointID) bool { return p.failed[id] != nil })
	if p.backlog == nil {
		p.backlog = map[backstay.PointID]bool{}
		for _, id := range missing {
			p.backlog[id] = true
		}
	}
	return missing, nil
}

// record brings the catalogue's records to what the other region says.
func (p *pushing) record(ctx context.Context, points []backstay.PointID, held pair.Held) error {
	known, err := p.Catalog.Replicas.ListReplicas(ctx, p.params.Vault)
	if err != nil {
		return fmt.Errorf("list replicas: %w", err)
	}
	if err := p.readTimes(ctx, points); err != nil {
		return err
	}
	put, forget := Subject{Vault: p.params.Vault, Region: p.params.Region, Points: points, Held: held, Times: p.times, Known: known, Now: p.Now()}.Records()
	if err := p.Catalog.Replicas.PutReplicas(ctx, put...); err != nil {
		return fmt.Errorf("record replicas: %w", err)
	}
	if err := p.Catalog.Replicas.DeleteReplicas(ctx, p.params.Region, forget...); err != nil {
		return fmt.Errorf("forget replicas: %w", err)
	}
	return nil
}

// readTimes reads the times of points out of the catalogue; only of those that are
// not known yet, because a vault has many.
func (p *pushing) readTimes(ctx context.Context, points []backstay.PointID) error {
	if p.times == nil {
		all, err := p.Catalog.Points.ListPoints(ctx, "")
		if err != nil {
			return fmt.Errorf("list points: %w", err)
		}
		p.times = make(map[backstay.PointID]time.Time, len(all))
		for _, point := range all {
			p.times[point.ID] = point.Time
		}
	}
	for _, id := range points {
		if _, ok := p.times[id]; ok {
			continue
		}
		point, err := p.Catalog.Points.Point(ctx, id)
		if errors.Is(err, catalog.ErrNotFound) {
			continue // committed, and not in the catalogue yet
		}
		if err != nil {
			return fmt.Errorf("read point %s: %w", id, err)
		}
		p.times[id] = point.Time
	}
	return nil
}

// set records a point's state that this job made.
func (p *pushing) set(ctx context.Context, id backstay.PointID, state backstay.ReplicaState) error {
	s := Subject{Vault: p.params.Vault, Region: p.params.Region, Times: p.times, Now: p.Now()}
	err := p.Catalog.Replicas.PutReplicas(ctx, s.record(id, backstay.Replica{Region: p.params.Region, State: state, At: s.Now}))
	if err != nil {
		return fmt.Errorf("record the replica of point %s: %w", id, err)
	}
	return nil
}

// changed tells whether something was appended to the vault's chain since it was
// looked at: a newer point may be waiting.
func (p *pushing) changed(ctx context.Context) bool {
	v, err := p.Catalog.Vaults.Vault(ctx, p.params.Vault)
	return err == nil && v.Head != nil && v.Head.Seq > p.head.Seq
}

// goOn returns why the next object is not to be taken, if it is time to ask.
func (p *pushing) goOn(ctx context.Context) error {
	if err := ctx.Err(); err != nil {
		return context.Cause(ctx)
	}
	if !p.gate.due(p.Now()) {
		return nil
	}
	if err := p.pace.Open(ctx); err != nil {
		return shutError{err}
	}
	return nil
}

// newer tells whether the vault has a newer point than this one, as the catalogue
// knows it; that is only looked up after something was appended to the chain.
func (p *pushing) newer(ctx context.Context, id backstay.PointID) bool {
	v, err := p.Catalog.Vaults.Vault(ctx, p.params.Vault)
	if err != nil || v.Head == nil || v.Head.Seq <= p.asked {
		return false
	}
	points, err := p.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return false
	}
	p.asked = v.Head.Seq
	return slices.ContainsFunc(points, func(o backstay.RecoveryPoint) bool {
		return o.ID > id && o.Vault == p.params.Vault && o.Has(backstay.VaultTier) && !p.backlog[o.ID]
	})
}

// giveWay ends fn with errLook as soon as there is a newer point than that of the
// backlog which fn pushes. What is on its way is given up: the line is the newer
// point's.
func (p *pushing) giveWay(ctx context.Context, id backstay.PointID, fn func(context.Context) error) error {
	if !p.backlog[id] {
		return fn(ctx)
	}
	p.asked = p.head.Seq
	ctx, stop := context.WithCancelCause(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		tick := time.NewTicker(lookEvery)
		defer tick.Stop()
		for {
			select {
			case <-ctx.Done():
				return
			case <-tick.C:
			case <-p.Nudge:
			}
			if p.newer(ctx, id) {
				stop(errLook)
			}
		}
	}()
	err := fn(ctx)
	if cause := context.Cause(ctx); err != nil && errors.Is(cause, errLook) {
		err = errLook
	}
	stop(nil)
	<-watched
	return err
}

// patiently tries again what fails because the other region cannot be reached or,
// with CodeReplicaRefused for or, because what came there was not what was sent.
func (p *pushing) patiently(ctx context.Context, or backstay.Code, try func() error) error {
	for i := 0; ; i++ {
		p.calls.Add(1)
		err := try()
		if err == nil {
			p.meter.waits("")
			return nil
		}
		away := backstay.IsCode(err, backstay.CodeRegionAway)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if i >= len(p.Patience) || !away && !backstay.IsCode(err, or) {
			return err
		}
		if away {
			p.meter.waits(fmt.Sprintf("region %s does not answer", p.params.Region))
		}
		timer := time.NewTimer(p.Patience[i])
		select {
		case <-timer.C:
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		}
	}
}
