package daemon

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/verify"
	"github.com/backstay/backstay/internal/mover"
)

// wholeCopies is a vault opened on the units that have everything, for who verifies
// and repairs: a unit that is being filled lacks objects and is not damaged, and one
// that is recorded as lost cannot be asked (I5). Outside all is told in the order of
// the vault's units, these two kinds included, so that it stays in its place while
// units go and come.
type wholeCopies struct {
	verified
	units []backstay.StorageUnit
	at    []int // of each copy of the opened vault, which unit it is on
}

// openWhole opens a vault for verifying and repairing.
func (v *vaults) openWhole(ctx context.Context, name backstay.VaultName) (verify.Vault, error) {
	var entry backstay.Vault
	opened, err := v.openAs(ctx, name, func(a *mover.VaultAccess) (err error) {
		if entry, err = v.entry(ctx, name); err == nil {
			a.Units, a.Joining = entry.Whole(), nil
		}
		return err
	})
	if err != nil {
		return nil, err
	}
	w := wholeCopies{verified: verified{opened}, units: entry.Units}
	for i, u := range entry.Units {
		if u.Standing.Whole() {
			w.at = append(w.at, i)
		}
	}
	return w, nil
}

// Scrub implements verify.Vault.
func (w wholeCopies) Scrub(ctx context.Context, o verify.ScrubOptions) (verify.ScrubReport, error) {
	o.Suspects = w.inside(o.Suspects)
	if progress := o.Progress; progress != nil {
		o.Progress = func(r verify.ScrubReport) error { return progress(w.report(r)) }
	}
	report, err := w.verified.Scrub(ctx, o)
	return w.report(report), err
}

func (w wholeCopies) report(r verify.ScrubReport) verify.ScrubReport {
	if len(r.Copies) > 0 {
		r.Copies = w.counts(r.Copies)
	}
	r.Damages = w.outside(r.Damages)
	return r
}

// Repair implements verify.Vault.
func (w wholeCopies) Repair(ctx context.Context, damages []backstay.Damage, o verify.RepairOptions) (verify.RepairReport, error) {
	report, err := w.verified.Repair(ctx, w.inside(damages), o)
	report.Lost, report.Failed = w.outside(report.Lost), w.outside(report.Failed)
	return report, err
}

// Census implements verify.Vault.
func (w wholeCopies) Census(ctx context.Context) ([]backstay.CopyCount, error) {
	counts, err := w.verified.Census(ctx)
	if err != nil {
		return nil, err
	}
	return w.counts(counts), nil
}

// counts puts what was counted in copies in the place of their units. Of a unit that
// was not asked nothing that the others have could be read (I13).
func (w wholeCopies) counts(copies []backstay.CopyCount) []backstay.CopyCount {
	out := make([]backstay.CopyCount, len(w.units))
	var most int64
	for _, c := range copies {
		most = max(most, c.Objects)
	}
	for i := range out {
		out[i].Unreadable = most
	}
	for i, c := range copies {
		if i < len(w.at) {
			out[w.at[i]] = c
		}
	}
	return out
}

// outside tells damages in the order of the vault's units.
func (w wholeCopies) outside(damages []backstay.Damage) []backstay.Damage {
	out := slices.Clone(damages)
	for n, d := range damages {
		states, why := make([]backstay.CopyState, len(w.units)), make([]string, len(w.units))
		for i, u := range w.units {
			states[i], why[i] = backstay.CopyUnreadable, notAsked(u)
		}
		for i, state := range d.Copies {
			if i < len(w.at) {
				states[w.at[i]], why[w.at[i]] = state, ""
				if i < len(d.Why) {
					why[w.at[i]] = d.Why[i]
				}
			}
		}
		out[n].Copies, out[n].Why = states, why
	}
	return out
}

// inside is outside the other way round.
func (w wholeCopies) inside(damages []backstay.Damage) []backstay.Damage {
	out := slices.Clone(damages)
	for n, d := range damages {
		states, why := make([]backstay.CopyState, len(w.at)), make([]string, len(w.at))
		for i, at := range w.at {
			states[i] = backstay.CopyUnreadable
			if at < len(d.Copies) {
				states[i] = d.Copies[at]
			}
			if at < len(d.Why) {
				why[i] = d.Why[at]
			}
		}
		out[n].Copies, out[n].Why = states, why
	}
	return out
}

func notAsked(u backstay.StorageUnit) string {
	if u.Standing == backstay.Joining {
		return "its storage unit is being filled"
	}
	return "its storage unit is recorded as lost"
}

// moveHealth tells what is known of the copies of a vault, whose units were before,
// in the order of those that it has now. A round that is under way begins anew: it
// counted copies that are others now.
func moveHealth(h *backstay.VaultHealth, before, now []backstay.StorageUnit) {
	from := func(u backstay.StorageUnit) int {
		return slices.IndexFunc(before, func(o backstay.StorageUnit) bool { return o.URL == u.URL })
	}
	copies := make([]backstay.CopyHealth, len(now))
	for i, u := range now {
		if at := from(u); at >= 0 && at < len(h.Copies) {
			copies[i] = h.Copies[at]
		}
	}
	for n, d := range h.Damages {
		states, why := make([]backstay.CopyState, len(now)), make([]string, len(now))
		for i, u := range now {
			states[i], why[i] = backstay.CopyUnreadable, "it was not looked at yet"
			if at := from(u); at >= 0 && at < len(d.Copies) && at < len(d.Why) {
				states[i], why[i] = d.Copies[at], d.Why[at]
			}
		}
		h.Damages[n].Copies, h.Damages[n].Why = states, why
	}
	if len(h.Copies) > 0 {
		h.Copies = copies
	}
	h.Round = nil
}

var _ verify.Vault = wholeCopies{}
