package recover

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/content"
	"github.com/backstay/backstay/internal/tier/vault"
)

// VerifiedUnit counts what was found in one copy.
type VerifiedUnit struct {
	URL string `json:"url"`
	vault.CopyReport
}

// The verdicts on a point.
const (
	PointSound      = "sound"      // everything it needs is sound in a copy at least
	PointDamaged    = "damaged"    // something it needs is sound in no copy
	PointUnreadable = "unreadable" // something it needs could not be read; says nothing of it (I5)
)

// VerifiedPoint is the verdict on one point.
type VerifiedPoint struct {
	ID      backstay.PointID `json:"id"`
	VM      backstay.VMRef   `json:"vm"`
	Verdict string           `json:"verdict"`
	Why     string           `json:"why"`
}

// Verified is what a verify found.
type Verified struct {
	Units  []VerifiedUnit  `json:"units"`
	Points []VerifiedPoint `json:"points"`
	// Damages are the objects that are missing or damaged in a copy.
	Damages []vault.Damage `json:"damages"`
	Objects int64          `json:"objects"`
	Bytes   int64          `json:"bytes"` // read of all copies
	// Unproved objects could not be read in any copy that might be sound.
	Unproved int64 `json:"unproved"`
}

// Damaged tells whether any copy of anything is missing or damaged.
func (r Verified) Damaged() bool {
	return len(r.Damages) > 0 || slices.ContainsFunc(r.Points, func(p VerifiedPoint) bool { return p.Verdict == PointDamaged })
}

// Unread tells whether something could not be read that no other copy proved.
func (r Verified) Unread() bool {
	return r.Unproved > 0 || slices.ContainsFunc(r.Points, func(p VerifiedPoint) bool { return p.Verdict == PointUnreadable })
}

// Verify reads every object of the vault in every copy and puts it through the
// decoder. With points it reads what these need, and then their disks from end to
// end, as a restore does. What is wrong is in the report; an error says that the
// verify itself could not go on. Progress may be nil; its total is not known
// exactly before the end.
func (v *Vault) Verify(ctx context.Context, points []Point, progress func(Progress)) (Verified, error) {
	total, err := v.storedBytes(ctx, points)
	if err != nil {
		return Verified{}, err
	}
	out := Verified{Points: []VerifiedPoint{}, Damages: []vault.Damage{}}
	for _, u := range v.units {
		if u.State == UnitInUse {
			out.Units = append(out.Units, VerifiedUnit{URL: u.URL})
		}
	}
	o := vault.ScrubOptions{Progress: func(r vault.ScrubReport) error {
		if progress != nil {
			progress(Progress{Phase: PhaseVerify, Done: out.Bytes + r.Bytes, Total: max(total, out.Bytes+r.Bytes)})
		}
		return ctx.Err()
	}}
	for _, p := range points {
		o.Points = append(o.Points, p.ID)
	}
	for more := true; more; {
		r, err := v.vault.Scrub(ctx, o)
		if err != nil {
			return out, fmt.Errorf("verify the vault %s: %w", v.name, err)
		}
		out.add(r)
		o.From, more = r.Next, r.Next != ""
	}
	if len(points) == 0 {
		points, err = v.Points(ctx, "")
		if err != nil {
			return out, err
		}
		for _, p := range points {
			out.Points = append(out.Points, out.verdict(p))
		}
		return out, nil
	}
	for _, p := range points {
		verdict := out.verdict(p)
		if verdict.Verdict == PointSound {
			if verdict, err = v.readAll(ctx, p); err != nil {
				return out, err
			}
		}
		out.Points = append(out.Points, verdict)
	}
	return out, nil
}

// add takes in the report of one part of a scrub.
func (r *Verified) add(s vault.ScrubReport) {
	for i, c := range s.Copies {
		u := &r.Units[i]
		u.Objects, u.Bytes = u.Objects+c.Objects, u.Bytes+c.Bytes
		u.Missing, u.Damaged, u.Unreadable = u.Missing+c.Missing, u.Damaged+c.Damaged, u.Unreadable+c.Unreadable
	}
	r.Damages = append(r.Damages, s.Damages...)
	r.Objects, r.Bytes, r.Unproved = r.Objects+s.Objects, r.Bytes+s.Bytes, r.Unproved+s.Unproved
}

// verdict says what the damages mean for a point.
func (r *Verified) verdict(p Point) VerifiedPoint {
	out := VerifiedPoint{ID: p.ID, VM: p.VM, Verdict: PointSound}
	switch {
	case p.Damage != "":
		out.Verdict, out.Why = PointDamaged, p.Damage
	case p.Unreadable != "":
		out.Verdict, out.Why = PointUnreadable, p.Unreadable
	}
	for _, d := range r.Damages {
		if d.Lost() && slices.Contains(d.Points, p.ID) {
			out.Verdict, out.Why = PointDamaged, d.String()
			break
		}
	}
	return out
}

// readAll reads the disks of a point as a restore does.
func (v *Vault) readAll(ctx context.Context, p Point) (VerifiedPoint, error) {
	out := VerifiedPoint{ID: p.ID, VM: p.VM, Verdict: PointSound}
	err := func() error {
		opened, err := v.open(ctx, p.ID)
		if err != nil {
			return err
		}
		for _, target := range targets(opened) {
			image, err := opened.Disk(ctx, target)
			if err != nil {
				return err
			}
			err = content.Each(ctx, image, max(2, runtime.GOMAXPROCS(0)), func(int64, []byte) error { return nil })
			if err := errors.Join(err, image.Close()); err != nil {
				return fmt.Errorf("disk %s: %w", target, err)
			}
		}
		return nil
	}()
	switch {
	case ctx.Err() != nil:
		return out, ctx.Err()
	case backstay.IsCode(err, backstay.CodeDamaged):
		out.Verdict, out.Why = PointDamaged, err.Error()
	case err != nil:
		out.Verdict, out.Why = PointUnreadable, err.Error()
	}
	return out, nil
}

// storedBytes is about what a verify will read: all objects of all copies. What
// cannot be listed counts nothing here; the scrub tells of it.
func (v *Vault) storedBytes(ctx context.Context, points []Point) (int64, error) {
	if len(points) > 0 {
		return 0, nil // what they need is found as they are read
	}
	var total int64
	for _, s := range v.used {
		_ = s.List(ctx, "", func(i blob.Info) error {
			total += i.Size
			return nil
		})
	}
	return total, ctx.Err()
}
