package redundancy

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

// Tasks are the steps of a redundancy job.
var Tasks = []string{"introduce", "fill", "wait", "compare", "switch"}

// FillOptions say what of a copy is to be filled: see the vault's own.
type FillOptions struct {
	First    []backstay.PointID
	From     string
	Quick    bool
	Filled   func(backstay.PointID) error
	Progress func(FillReport) error
}

// FillReport is what a fill did: see the vault's own.
type FillReport struct {
	Objects, Copied, Bytes, Replaced int64
	Bad, Unsound                     []string
	Next                             string
}

// Units does to the units of vaults what needs their keys or their stores. Every
// method may be called again after it was cut off anywhere.
type Units interface {
	// Change changes in the catalogue what a vault's units are to it, and has
	// everything that opens the vault from then on use them so.
	Change(ctx context.Context, vault backstay.VaultName, change func(*backstay.Vault) error) (backstay.Vault, error)
	// Introduce makes a unit that nobody writes to one that the vault can be opened
	// with.
	Introduce(ctx context.Context, vault backstay.VaultName, unit string) error
	// Fill copies into a unit what it lacks of those that have everything.
	Fill(ctx context.Context, vault backstay.VaultName, unit string, o FillOptions) (FillReport, error)
	// Declare writes the vault's redundancy into its header.
	Declare(ctx context.Context, vault backstay.VaultName, r backstay.Redundancy) error
	// Lost looks at the vault's units, records as lost what does not answer in a few
	// tries, and says what it recorded.
	Lost(ctx context.Context, vault backstay.VaultName) ([]string, error)
	// Damaged notes objects of which a copy that should be sound is wrong, so that
	// they are looked at and repaired.
	Damaged(ctx context.Context, vault backstay.VaultName, objects []string) error
}

// Runner runs redundancy jobs.
type Runner struct {
	Catalog *catalog.Catalog
	Units   Units
	Now     func() time.Time
	// Poll is how long to wait before it is looked again who still writes.
	Poll time.Duration
}

// filled is how far a unit is.
type filled struct {
	Since  time.Time          `json:"since"` // of the Joining that it is of
	Points []backstay.PointID `json:"points,omitempty"`
	Next   string             `json:"next,omitempty"`
	Done   bool               `json:"done,omitempty"`
}

// state is what a later life of a job needs, by the units' URLs.
type state struct {
	Units map[string]filled `json:"units"`
}

// redundancyRun is one job in one of its lives.
type redundancyRun struct {
	*Runner
	run    backstay.Run
	vault  backstay.VaultName
	state  state
	copied int64 // bytes in this life
}

// Run brings the units of a vault to what is wished for. A unit that does not
// answer is left as it is, with a warning, and the others are gone on with.
func (r *Runner) Run(ctx context.Context, run backstay.Run, params backstay.RedundancyParams) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	c := &redundancyRun{Runner: r, run: run, vault: params.Vault}
	if _, err := run.Load(&c.state); err != nil {
		return fmt.Errorf("load the job's state: %w", err)
	}
	if c.state.Units == nil {
		c.state.Units = map[string]filled{}
	}
	for _, step := range []struct {
		name string
		do   func(context.Context) error
	}{{"introduce", c.introduce}, {"fill", c.fill}, {"wait", c.wait}, {"compare", c.compare}, {"switch", c.change}} {
		if err := run.Step(ctx, step.name, step.do); err != nil {
			return err
		}
	}
	return nil
}

func (c *redundancyRun) entry(ctx context.Context) (backstay.Vault, error) {
	v, err := c.Catalog.Vaults.Vault(ctx, c.vault)
	if errors.Is(err, catalog.ErrNotFound) {
		return v, backstay.Errorf(backstay.CodeUnknownVault, "there is no vault %q", c.vault)
	} else if err != nil {
		return v, fmt.Errorf("read vault %s: %w", c.vault, err)
	}
	return v, nil
}

// introduce makes every unit that is behind, and answers, one that is written.
func (c *redundancyRun) introduce(ctx context.Context) error {
	v, err := c.entry(ctx)
	if err != nil {
		return err
	}
	for _, url := range NewPlan(v).Introduce {
		err := c.Units.Introduce(ctx, c.vault, url)
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		if err == nil {
			_, err = c.stand(ctx, url, backstay.Behind, backstay.Joining)
			if err != nil {
				return err
			}
			continue
		}
		if err := c.run.Warn(fmt.Sprintf("storage unit %s is no copy of the vault %s: %s", url, c.vault, backstay.AsError(err).Error())); err != nil {
			return err
		}
	}
	return nil
}

// stand changes what a unit is to the vault, if it still is what it was.
func (c *redundancyRun) stand(ctx context.Context, url string, from, to backstay.Standing) (backstay.Vault, error) {
	now := c.Now().UTC()
	return c.Units.Change(ctx, c.vault, func(v *backstay.Vault) error {
		for i, u := range v.Units {
			if u.URL == url && u.Standing == from {
				v.Units[i].Standing, v.Units[i].Since, v.Units[i].Why = to, &now, ""
			}
		}
		return nil
	})
}

// joining returns the units that are being filled.
func (c *redundancyRun) joining(ctx context.Context) ([]backstay.StorageUnit, error) {
	v, err := c.entry(ctx)
	return slices.DeleteFunc(slices.Clone(v.Units), func(u backstay.StorageUnit) bool { return u.Standing != backstay.Joining }), err
}

// fill gives every unit that joins what it lacks, the newest points first.
func (c *redundancyRun) fill(ctx context.Context) error {
	units, err := c.joining(ctx)
	if err != nil {
		return err
	}
	points, err := c.points(ctx)
	if err != nil {
		return err
	}
	for _, u := range units {
		if err := c.lackOf(ctx, u, c.fillOne(ctx, u, points)); err != nil {
			return err
		}
	}
	return nil
}

// points are those of the vault, the newest first.
func (c *redundancyRun) points(ctx context.Context) ([]backstay.PointID, error) {
	all, err := c.Catalog.Points.ListPoints(ctx, "")
	if err != nil {
		return nil, fmt.Errorf("list points: %w", err)
	}
	var ids []backstay.PointID
	for _, p := range slices.Backward(all) {
		if p.Vault == c.vault && p.Has(backstay.VaultTier) {
			ids = append(ids, p.ID)
		}
	}
	return ids, nil
}

// lackOf decides what it means that a unit could not be filled: if it is recorded as
// lost by now, the others are gone on with.
func (c *redundancyRun) lackOf(ctx context.Context, u backstay.StorageUnit, err error) error {
	if err == nil || ctx.Err() != nil {
		return err
	}
	told, lostErr := c.Units.Lost(ctx, c.vault)
	if lostErr != nil {
		return errors.Join(err, lostErr)
	}
	for _, what := range told {
		if err := c.run.Warn(what); err != nil {
			return err
		}
	}
	now, entryErr := c.entry(ctx)
	if entryErr != nil {
		return entryErr
	}
	if slices.Contains(now.Standing(backstay.Joining), u.URL) {
		return err
	}
	return nil
}

// saveEvery is how much is filled in at most before it is written down how far it
// is, in bytes and in objects: what is lost with a crash is only looked at again.
const (
	saveEvery        = 128 << 20
	saveEveryObjects = 2000
)

func (c *redundancyRun) fillOne(ctx context.Context, u backstay.StorageUnit, points []backstay.PointID) error {
	at := c.state.Units[u.URL]
	if !at.Since.Equal(*u.Since) {
		at = filled{Since: *u.Since} // it was lost since, and joined again
	}
	if at.Done {
		return nil
	}
	save := func() error {
		c.state.Units[u.URL] = at
		return c.run.Save(c.state)
	}
	var saved FillReport
	before := c.copied
	report, err := c.Units.Fill(ctx, c.vault, u.URL, FillOptions{
		First: slices.DeleteFunc(slices.Clone(points), func(id backstay.PointID) bool { return slices.Contains(at.Points, id) }),
		From:  at.Next,
		Filled: func(id backstay.PointID) error {
			at.Points = append(at.Points, id)
			return save()
		},
		Progress: func(r FillReport) error {
			c.copied = before + r.Bytes
			c.run.Progress(c.copied, 0)
			if r.Next == "" || r.Bytes-saved.Bytes < saveEvery && r.Objects-saved.Objects < saveEveryObjects {
				return nil
			}
			saved, at.Next = r, r.Next
			return save()
		},
	})
	c.copied = before + report.Bytes
	if told := c.tell(ctx, u, report); told != nil {
		return errors.Join(err, told)
	}
	at.Next, at.Done = report.Next, err == nil
	return errors.Join(err, save())
}

// tell notes what a fill found and did.
func (c *redundancyRun) tell(ctx context.Context, u backstay.StorageUnit, r FillReport) error {
	ctx = context.WithoutCancel(ctx)
	if bad := slices.Concat(r.Bad, r.Unsound); len(bad) > 0 {
		if err := c.Units.Damaged(ctx, c.vault, bad); err != nil {
			return err
		}
	}
	if len(r.Unsound) > 0 {
		if err := c.run.Warn(fmt.Sprintf("%d objects are sound in no copy, and so not in %s: %s", len(r.Unsound), u.URL, strings.Join(r.Unsound[:min(3, len(r.Unsound))], ", "))); err != nil {
			return err
		}
	}
	return c.run.Update(func(j *backstay.Job) {
		j.Result.Repaired += int(r.Copied)
		j.Stats.BytesNew += r.Bytes
	})
}

// wait lets end who may have opened the vault before the units were written: what
// such a one puts is not in them.
func (c *redundancyRun) wait(ctx context.Context) error {
	for {
		units, err := c.joining(ctx)
		if err != nil || len(units) == 0 {
			return err
		}
		jobs, err := c.Catalog.Jobs.ListJobs(ctx, 0, backstay.JobQueued, backstay.JobRunning, backstay.JobCancelling)
		if err != nil {
			return fmt.Errorf("list the jobs of vault %s: %w", c.vault, err)
		}
		last := slices.MaxFunc(units, func(a, b backstay.StorageUnit) int { return a.Since.Compare(*b.Since) })
		waits := Before(jobs, c.vault, *last.Since)
		if len(waits) == 0 {
			return nil
		}
		if long, ok := c.run.(backstay.LongRun); ok {
			if err := long.Note("wait", "for "+strings.Join(waits, ", ")); err != nil {
				return err
			}
		}
		timer := time.NewTimer(c.Poll)
		select {
		case <-ctx.Done():
			timer.Stop()
			return context.Cause(ctx)
		case <-timer.C:
		}
	}
}

// compare fills in what was put meanwhile by who did not know of the units, and
// then they count as copies.
func (c *redundancyRun) compare(ctx context.Context) error {
	units, err := c.joining(ctx)
	if err != nil {
		return err
	}
	for _, u := range units {
		at := c.state.Units[u.URL]
		// One that began to join since, or was not read to the end, is another run's.
		if !at.Done || !at.Since.Equal(*u.Since) {
			continue
		}
		report, err := c.Units.Fill(ctx, c.vault, u.URL, FillOptions{Quick: true, Progress: func(FillReport) error { return nil }})
		if told := c.tell(ctx, u, report); told != nil {
			return errors.Join(err, told)
		}
		if err != nil {
			if err := c.lackOf(ctx, u, err); err != nil {
				return err
			}
			continue
		}
		if _, err := c.counts(ctx, u); err != nil {
			return err
		}
	}
	return nil
}

// counts makes a unit that has everything a copy, unless it was lost meanwhile.
func (c *redundancyRun) counts(ctx context.Context, u backstay.StorageUnit) (backstay.Vault, error) {
	now := c.Now().UTC()
	return c.Units.Change(ctx, c.vault, func(v *backstay.Vault) error {
		for i, n := range v.Units {
			if n.URL == u.URL && n.Standing == backstay.Joining && n.Since.Equal(*u.Since) {
				v.Units[i].Standing, v.Units[i].Since = backstay.Current, &now
			}
		}
		return nil
	})
}

// change switches to the redundancy that is wished for, and lets units go.
func (c *redundancyRun) change(ctx context.Context) error {
	v, err := c.entry(ctx)
	if err != nil {
		return err
	}
	if to := NewPlan(v).Switch; to != "" {
		if err := Settled(v, to); err != nil {
			return err
		}
		if err := c.Units.Declare(ctx, c.vault, to); err != nil {
			return err
		}
		if v, err = c.Units.Change(ctx, c.vault, func(now *backstay.Vault) error {
			now.Redundancy = to
			if now.Wish == to {
				now.Wish = ""
			}
			return nil
		}); err != nil {
			return err
		}
	}
	for _, url := range NewPlan(v).Leave {
		_, err = c.Units.Change(ctx, c.vault, func(now *backstay.Vault) error {
			if !slices.Contains(now.Standing(backstay.Leaving), url) {
				return nil // it was asked to stay
			}
			if err := MayLeave(*now, url); err != nil {
				return err
			}
			now.Units = slices.DeleteFunc(now.Units, func(u backstay.StorageUnit) bool { return u.URL == url })
			return nil
		})
		if backstay.IsCode(err, backstay.CodeUnitInUse) {
			err = c.run.Warn(backstay.AsError(err).Error())
		}
		if err != nil {
			return err
		}
	}
	return nil
}
