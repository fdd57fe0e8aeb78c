package verify

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// saveEvery is how much is read at most before it is written down how far a
// verify is: what is lost with a crash is read again.
const saveEvery = 256 << 20

// ScrubOptions say what of a vault is to be read.
type ScrubOptions struct {
	From          string
	Budget        int64
	Points, Known []backstay.PointID
	Expect        []backstay.PointID
	Suspects      []backstay.Damage
	Pace          func(ctx context.Context, bytes int) error
	Progress      func(ScrubReport) error
}

// ScrubReport is what was found. Next is where to go on; empty at the end.
type ScrubReport struct {
	Copies         []backstay.CopyCount
	Damages        []backstay.Damage
	Objects, Bytes int64
	Unproved       int64
	Next           string
}

// RepairOptions say how a vault is to be repaired. Gone are points that are
// being dropped.
type RepairOptions struct {
	Gone []backstay.PointID
	Pace func(ctx context.Context, bytes int) error
}

// RepairReport is what a repair did: Copies were written anew, Lost have no
// sound copy, Failed could not be mended.
type RepairReport struct {
	Copies       int
	Bytes        int64
	Lost, Failed []backstay.Damage
}

// Vault is what verifying and repairing need of an opened vault. Only the server
// repairs: a repair removes wrong copies (architecture decision 4).
type Vault interface {
	Scrub(ctx context.Context, o ScrubOptions) (ScrubReport, error)
	Repair(ctx context.Context, damages []backstay.Damage, o RepairOptions) (RepairReport, error)
	// Census lists what is in each copy.
	Census(ctx context.Context) ([]backstay.CopyCount, error)
	Close() error
}

// VaultRunner runs the jobs that verify and repair whole vaults.
type VaultRunner struct {
	Catalog *catalog.Catalog
	Open    func(context.Context, backstay.VaultName) (Vault, error)
	// QueueRepair queues a repair of the vault, unless one is waiting already.
	QueueRepair func(context.Context, backstay.VaultName) error
	Now         func() time.Time
}

// progress is what a verify job leaves for its next life. Lost are the objects
// of which it was known before the job that they have no sound copy.
type progress struct {
	Begun bool     `json:"begun"` // the round is this job's
	Lost  []string `json:"lost"`
}

// verifying is one life of a verify job.
type verifying struct {
	*VaultRunner
	run    backstay.Run
	params backstay.VerifyVaultParams
	vault  Vault
	pace   *pacer
	read   int64 // bytes in this life
	known  []backstay.Damage
	state  progress
	// unread are the copies of which something could not be read.
	unread map[int]int64
}

// Verify reads the vault: points that were never verified, or everything, or a
// part of everything. What it finds is in the catalogue at its end, and a repair
// is queued if there is something to repair. CodeDamaged if a point cannot be
// restored whole any more.
func (r *VaultRunner) Verify(ctx context.Context, run backstay.Run, params backstay.VerifyVaultParams) error {
	vault, err := r.Open(ctx, params.Vault)
	if err != nil {
		return err
	}
	defer vault.Close()
	before, err := r.Catalog.Health.VaultHealth(ctx, params.Vault)
	if err != nil {
		return err
	}
	v := &verifying{VaultRunner: r, run: run, params: params, vault: vault, known: before.Damages, unread: map[int]int64{},
		pace: &pacer{rate: params.Rate, now: r.Now}}
	if ok, err := run.Load(&v.state); err != nil {
		return err
	} else if !ok {
		for _, d := range before.Damages {
			if d.Lost() {
				v.state.Lost = append(v.state.Lost, d.Object)
			}
		}
		if err := run.Save(v.state); err != nil {
			return err
		}
	}
	if params.Points {
		if err := run.Step(ctx, "points", v.points); err != nil {
			return err
		}
	}
	if params.Whole {
		if err := run.Step(ctx, "read", v.whole); err != nil {
			return err
		}
	}
	return run.Step(ctx, "report", v.report)
}

// points verifies the points that never were, the oldest first: what they need
// and verified ones do not.
func (v *verifying) points(ctx context.Context) error {
	all, err := v.inVault(ctx)
	if err != nil {
		return err
	}
	var known []backstay.PointID
	for _, p := range all {
		if p.Verified != nil {
			known = append(known, p.ID)
		}
	}
	for _, p := range all {
		if p.Verified != nil {
			continue
		}
		began, read := v.Now().UTC(), v.read
		report, err := v.vault.Scrub(ctx, ScrubOptions{Points: []backstay.PointID{p.ID}, Known: known, Pace: v.pace.wait,
			Progress: func(r ScrubReport) error { v.run.Progress(read+r.Bytes, 0); return nil }})
		if err != nil {
			return err
		}
		v.took(report)
		err = v.Catalog.Health.ChangeVaultHealth(ctx, v.params.Vault, func(h *backstay.VaultHealth) error {
			h.Damages = merge(h.Damages, report.Damages)
			h.LastRun = &began
			return nil
		})
		if err != nil {
			return err
		}
		if report.Unproved > 0 || slices.ContainsFunc(report.Damages, backstay.Damage.Lost) {
			continue
		}
		known = append(known, p.ID)
		if err := v.verified(ctx, p.ID, began); err != nil {
			return err
		}
	}
	return nil
}

// merge puts newer findings in the place of older ones.
func merge(old, fresh []backstay.Damage) []backstay.Damage {
	out := slices.Clone(old)
	for _, d := range fresh {
		out = slices.DeleteFunc(out, func(o backstay.Damage) bool { return o.Object == d.Object })
		out = append(out, d)
	}
	return out
}

func (v *verifying) verified(ctx context.Context, id backstay.PointID, at time.Time) error {
	err := v.Catalog.Points.ChangePoint(ctx, id, func(p *backstay.RecoveryPoint) error {
		p.Verified = &at
		return nil
	})
	if errors.Is(err, catalog.ErrNotFound) {
		return nil // deleted since
	}
	return err
}

// took counts what a scrub read, and which copies it could not.
func (v *verifying) took(r ScrubReport) {
	v.read += r.Bytes
	for i, c := range r.Copies {
		v.unread[i] += c.Unreadable
	}
}

// whole goes on with the round, or begins one.
func (v *verifying) whole(ctx context.Context) error {
	counts, err := v.vault.Census(ctx)
	if err != nil {
		return err
	}
	var total int64
	for _, c := range counts {
		total += c.Bytes
	}
	round, err := v.round(ctx)
	if err != nil {
		return err
	}
	points, err := v.inVault(ctx)
	if err != nil {
		return err
	}
	o := ScrubOptions{From: round.Cursor, Pace: v.pace.wait, Suspects: v.known}
	for _, p := range points {
		o.Expect = append(o.Expect, p.ID)
	}
	aim := total - round.Bytes
	if v.params.Days > 0 {
		plan := planPart(v.Now(), round, total, v.params.Days)
		o.Budget, aim = plan.budget, min(plan.budget, aim)
		if v.pace.rate == 0 {
			v.pace.rate = plan.rate
		}
	}
	var saved int64
	o.Progress = func(r ScrubReport) error {
		v.run.Progress(r.Bytes, max(aim, r.Bytes))
		if r.Bytes-saved < saveEvery {
			return nil
		}
		saved = r.Bytes
		return v.keep(ctx, round, r)
	}
	report, err := v.vault.Scrub(ctx, o)
	v.took(report)
	if err != nil {
		// How far it came is kept for whoever goes on, also after a cancel.
		return errors.Join(err, v.keep(context.WithoutCancel(ctx), round, report))
	}
	if report.Next != "" && v.params.Days == 0 {
		err = v.run.Warn(fmt.Sprintf("so much is damaged that the verify ended at %s: verify again when the repair has ended", report.Next))
	}
	if report.Next != "" {
		return errors.Join(err, v.keep(ctx, round, report))
	}
	return v.finish(ctx, added(round, report), report)
}

// round returns the round to go on with. A verify of all of a vault begins a new
// one, once in all its lives.
func (v *verifying) round(ctx context.Context) (backstay.VerifyRound, error) {
	var round backstay.VerifyRound
	err := v.Catalog.Health.ChangeVaultHealth(ctx, v.params.Vault, func(h *backstay.VaultHealth) error {
		if h.Round == nil || v.params.Days == 0 && !v.state.Begun {
			h.Round = &backstay.VerifyRound{Started: v.Now().UTC()}
		}
		round = *h.Round
		return nil
	})
	if err != nil {
		return round, err
	}
	v.state.Begun = true
	return round, v.run.Save(v.state)
}

// added is the round with what was found since.
func added(round backstay.VerifyRound, r ScrubReport) backstay.VerifyRound {
	round.Cursor, round.Objects, round.Bytes = r.Next, round.Objects+r.Objects, round.Bytes+r.Bytes
	round.Unproved += r.Unproved
	copies := make([]backstay.CopyCount, len(r.Copies))
	copy(copies, round.Copies)
	for i, c := range r.Copies {
		copies[i].Objects += c.Objects
		copies[i].Bytes += c.Bytes
		copies[i].Unreadable += c.Unreadable
	}
	round.Copies = copies
	return round
}

// keep writes down how far the round is. What was found is kept as it is: the
// next part looks at it again.
func (v *verifying) keep(ctx context.Context, round backstay.VerifyRound, r ScrubReport) error {
	if len(r.Copies) == 0 {
		return nil // it did not begin
	}
	return v.Catalog.Health.ChangeVaultHealth(ctx, v.params.Vault, func(h *backstay.VaultHealth) error {
		now, next := v.Now().UTC(), added(round, r)
		h.LastRun, h.Round, h.Damages = &now, &next, slices.Clone(r.Damages)
		if len(h.Copies) != len(r.Copies) {
			h.Copies = make([]backstay.CopyHealth, len(r.Copies))
		}
		h.Settle()
		return nil
	})
}

// finish ends the round. A copy of which something could not be read was not
// read whole (I13).
func (v *verifying) finish(ctx context.Context, round backstay.VerifyRound, r ScrubReport) error {
	now := v.Now().UTC()
	err := v.Catalog.Health.ChangeVaultHealth(ctx, v.params.Vault, func(h *backstay.VaultHealth) error {
		before := h.Copies
		h.Started, h.Ended, h.LastRun, h.Round, h.Damages = &round.Started, &now, &now, nil, r.Damages
		h.Copies = make([]backstay.CopyHealth, len(round.Copies))
		for i, c := range round.Copies {
			h.Copies[i].CopyCount = c
			if i < len(before) {
				h.Copies[i].LastScrubbed = before[i].LastScrubbed
			}
			if c.Unreadable == 0 {
				h.Copies[i].LastScrubbed = &now
			}
		}
		h.Settle()
		return nil
	})
	if err != nil || round.Unproved > 0 {
		return err
	}
	points, err := v.inVault(ctx)
	if err != nil {
		return err
	}
	for _, p := range points {
		whole := !slices.ContainsFunc(r.Damages, func(d backstay.Damage) bool { return slices.Contains(d.Points, p.ID) })
		if whole && since(p).Before(round.Started) {
			if err := v.verified(ctx, p.ID, round.Started); err != nil {
				return err
			}
		}
	}
	return nil
}

// inVault returns the points that the catalogue has in the vault, oldest first.
func (r *VaultRunner) inVaultOf(ctx context.Context, vault backstay.VaultName, state backstay.TierState) ([]backstay.RecoveryPoint, error) {
	points, err := r.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	return slices.DeleteFunc(points, func(p backstay.RecoveryPoint) bool {
		return p.Vault != vault || !slices.ContainsFunc(p.Tiers, func(t backstay.PointTier) bool {
			return t.Tier == backstay.VaultTier && t.State == state
		})
	}), nil
}

func (v *verifying) inVault(ctx context.Context) ([]backstay.RecoveryPoint, error) {
	return v.inVaultOf(ctx, v.params.Vault, backstay.TierAvailable)
}

// report says what is wrong, marks the points, and queues a repair.
func (v *verifying) report(ctx context.Context) error {
	h, err := v.settle(ctx, v.params.Vault)
	if err != nil {
		return err
	}
	if err := v.run.Update(func(j *backstay.Job) { j.Stats.BytesRead += v.read }); err != nil {
		return err
	}
	for i, n := range v.unread {
		if n == 0 {
			continue
		}
		if err := v.run.Warn(fmt.Sprintf("copy %d: %d objects could not be read; that says nothing of them", i+1, n)); err != nil {
			return err
		}
	}
	var mend []backstay.Damage
	for _, d := range h.Damages {
		// What was lost before was tried before.
		if d.Repairable() && !(d.Lost() && slices.Contains(v.state.Lost, d.Object)) {
			mend = append(mend, d)
		}
	}
	if len(mend) > 0 {
		if err := v.run.Warn(fmt.Sprintf("%d objects are damaged or missing in some copy, and a repair is queued: %s", len(mend), some(mend))); err != nil {
			return err
		}
		if err := v.QueueRepair(ctx, v.params.Vault); err != nil {
			return fmt.Errorf("queue a repair: %w", err)
		}
	}
	return lost(v.params.Vault, h.Damages, v.run.Warn)
}

// settle drops what the catalogue explains and marks the points by what is lost.
func (r *VaultRunner) settle(ctx context.Context, vault backstay.VaultName) (backstay.VaultHealth, error) {
	points, err := r.inVaultOf(ctx, vault, backstay.TierAvailable)
	if err != nil {
		return backstay.VaultHealth{}, err
	}
	there := map[backstay.PointID]bool{}
	for _, p := range points {
		there[p.ID] = true
	}
	going, err := r.inVaultOf(ctx, vault, backstay.TierDeleting)
	if err != nil {
		return backstay.VaultHealth{}, err
	}
	var h backstay.VaultHealth
	err = r.Catalog.Health.ChangeVaultHealth(ctx, vault, func(now *backstay.VaultHealth) error {
		now.Damages = slices.DeleteFunc(now.Damages, func(d backstay.Damage) bool {
			id, manifest := strings.CutPrefix(d.Object, "points/")
			deleted := slices.ContainsFunc(going, func(p backstay.RecoveryPoint) bool { return string(p.ID) == id })
			nowhere := !slices.ContainsFunc(d.Copies, func(s backstay.CopyState) bool { return s != backstay.CopyMissing })
			return manifest && (deleted || nowhere && !there[backstay.PointID(id)])
		})
		now.Settle()
		h = *now
		return nil
	})
	if err != nil {
		return h, err
	}
	for _, p := range points {
		reason := ""
		for _, d := range h.Damages {
			if d.Lost() && slices.Contains(d.Points, p.ID) {
				reason = d.Object + " is damaged or missing in every copy"
				break
			}
		}
		if reason == p.Damage {
			continue
		}
		err := r.Catalog.Points.ChangePoint(ctx, p.ID, func(p *backstay.RecoveryPoint) error {
			p.Damage = reason
			return nil
		})
		if err != nil && !errors.Is(err, catalog.ErrNotFound) {
			return h, fmt.Errorf("mark point %s: %w", p.ID, err)
		}
	}
	return h, nil
}

// lost is the error of a vault of which a point cannot be restored whole. What
// is lost and no point needs is only told.
func lost(vault backstay.VaultName, damages []backstay.Damage, warn func(string) error) error {
	var points []string
	var objects, others []backstay.Damage
	for _, d := range damages {
		switch {
		case !d.Lost():
		case len(d.Points) == 0:
			others = append(others, d)
		default:
			objects = append(objects, d)
			for _, id := range d.Points {
				if !slices.Contains(points, string(id)) {
					points = append(points, string(id))
				}
			}
		}
	}
	if len(others) > 0 {
		if err := warn(fmt.Sprintf("%d objects that no point needs have no sound copy: %s", len(others), some(others))); err != nil {
			return err
		}
	}
	if len(objects) == 0 {
		return nil
	}
	slices.Sort(points)
	return backstay.Errorf(backstay.CodeDamaged, "%d objects of the vault %s are damaged or missing in every copy", len(objects), vault).
		Becausef("these points cannot be restored whole: %s; %s", strings.Join(points, ", "), some(objects)).
		Do("restore from other points or from the snapshot tier, and take a new backup of these VMs")
}

// some names the first few damages.
func some(damages []backstay.Damage) string {
	const most = 3
	var parts []string
	for _, d := range damages[:min(most, len(damages))] {
		parts = append(parts, d.String())
	}
	if len(damages) > most {
		parts = append(parts, fmt.Sprintf("and %d more", len(damages)-most))
	}
	return strings.Join(parts, "; ")
}
