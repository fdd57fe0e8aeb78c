package vault

import (
	"context"
	"errors"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// RepairOptions describe a repair.
type RepairOptions struct {
	// Gone are points that are being dropped: their manifests are not put back.
	Gone []backstay.PointID
	// Pace is called after each read and write with its length; it may wait.
	Pace func(ctx context.Context, bytes int) error
	// Progress is called with how many of the damages are settled, and the report so far.
	Progress func(done, total int, report RepairReport)
}

// RepairReport is what a repair did.
type RepairReport struct {
	// Copies is how many copies of objects were written anew and read back, Bytes
	// their length.
	Copies int   `json:"copies"`
	Bytes  int64 `json:"bytes"`
	// Lost have no sound copy, with the points that cannot be restored whole;
	// Failed have one, and yet a copy could not be made right: Why says why.
	Lost   []Damage `json:"lost"`
	Failed []Damage `json:"failed"`
}

// Repair makes every damaged or missing copy of these objects right, from a copy
// that is proved sound now: with the identical bytes (I1), read back. A wrong
// copy is removed only while another one is sound, so a repair that is cut off
// leaves at worst a missing copy, which the next one makes. What has no sound
// copy is not touched but put together, if it is a pack, from the sound chunks
// of all its copies, and made anew, if it is an index. The error is that of a
// repair that was cut off, or of Unmixed.
func (v *Vault) Repair(ctx context.Context, damages []Damage, o RepairOptions) (RepairReport, error) {
	if err := errors.Join(v.own(), v.Unmixed(ctx)); err != nil {
		return RepairReport{}, err
	}
	report, err := v.scrubber(ScrubOptions{Pace: o.Pace}).repair(ctx, damages, o)
	if err == nil {
		report.Lost, err = v.replaceIndexes(ctx, report.Lost)
	}
	return report, err
}

// RepairKeyless is Repair for whoever has no key: what is sound is told by the
// hashes that all objects carry in the clear.
func RepairKeyless(ctx context.Context, s blob.Store, vaultID string, damages []Damage, o RepairOptions) (RepairReport, error) {
	k, err := newKeyless(ctx, s, vaultID)
	if err != nil {
		return RepairReport{}, err
	}
	return k.scrubber(ScrubOptions{Pace: o.Pace}).repair(ctx, damages, o)
}

func (s *scrubber) repair(ctx context.Context, damages []Damage, o RepairOptions) (RepairReport, error) {
	var report RepairReport
	gone := map[string]bool{}
	for _, id := range o.Gone {
		gone["points/"+string(id)] = true
	}
	if err := s.findNeeded(ctx); err != nil {
		return report, err
	}
	for n, d := range damages {
		if !gone[d.Object] {
			if err := s.repairOne(ctx, d.Object, &report); err != nil {
				return report, err
			}
		}
		if o.Progress != nil {
			o.Progress(n+1, len(damages), report)
		}
	}
	lost := ScrubReport{Copies: make([]CopyReport, len(s.copies)), Damages: report.Lost}
	err := s.assess(ctx, &lost)
	report.Lost = lost.Damages
	return report, err
}

// repairOne makes the copies of one object right.
func (s *scrubber) repairOne(ctx context.Context, name string, report *RepairReport) error {
	k, err := s.look(ctx, name, make([]error, len(s.copies)))
	if err != nil {
		return err
	}
	if !k.Repairable() || s.excused(ctx, k) {
		return nil
	}
	good := k.good
	if good == nil {
		if good, err = s.remake(ctx, k); err != nil {
			return err
		}
	}
	if good == nil {
		if k.Lost() {
			report.Lost = append(report.Lost, k.Damage)
		} else {
			report.Failed = append(report.Failed, k.Damage)
		}
		return nil
	}
	failed := false
	for _, i := range s.order(ctx, k, good) {
		if err := s.rewrite(ctx, i, &k, good); err != nil {
			if ctx.Err() != nil {
				return fmt.Errorf("repair: %w", context.Cause(ctx))
			}
			k.Why[i], failed = k.Why[i]+"; repair: "+err.Error(), true
			continue
		}
		k.Copies[i], k.Why[i] = CopySound, ""
		report.Copies++
		report.Bytes += int64(len(good))
	}
	if failed || slices.Contains(k.Copies, CopyDamaged) {
		report.Failed = append(report.Failed, k.Damage)
	}
	return nil
}

// order returns the copies that are to be written, missing ones first: they take
// nothing away. If no copy is sound, then the first to be removed must be one
// that the others do not need to be put together again.
func (s *scrubber) order(ctx context.Context, k look, good []byte) []int {
	var missing, wrong []int
	for i, state := range k.Copies {
		switch state {
		case CopyMissing:
			missing = append(missing, i)
		case CopyDamaged:
			wrong = append(wrong, i)
		}
	}
	if len(missing) > 0 || slices.Contains(k.Copies, CopySound) {
		return append(missing, wrong...)
	}
	for at, i := range wrong {
		rest := slices.Delete(slices.Clone(wrong), at, at+1)
		if data, err := s.assemble(ctx, k.Object, rest); err == nil && seal.Hash(data) == seal.Hash(good) {
			return append([]int{i}, rest...)
		}
	}
	return nil
}

// rewrite makes one copy right and reads it back. k has another sound copy, or
// the copies that stay can be put together.
func (s *scrubber) rewrite(ctx context.Context, i int, k *look, good []byte) error {
	c := s.copies[i]
	if k.Copies[i] == CopyDamaged {
		if err := c.Delete(ctx, k.Object); err != nil {
			return err
		}
	}
	err := c.Put(ctx, k.Object, good)
	if err != nil && !errors.Is(err, blob.ErrExist) {
		return err
	}
	// What exists was put by somebody else meanwhile, and reading it tells.
	if s.o.Pace != nil {
		if err := s.o.Pace(ctx, len(good)); err != nil {
			return err
		}
	}
	right := seal.Hash(good)
	found, err := s.judge(ctx, i, k, &right)
	if err == nil && found.state != CopySound {
		err = fmt.Errorf("read back after it was written: %s: %s", found.state, found.why)
	}
	return err
}

// remake returns the bytes of an object that has no sound copy, if they can be
// had in another way; nil if not.
func (s *scrubber) remake(ctx context.Context, k look) ([]byte, error) {
	if s.header != nil {
		if data := s.header(k.Object); data != nil {
			return data, nil
		}
	}
	if _, ok := packOf(k.Object); !ok {
		return nil, nil
	}
	var all []int
	for i, state := range k.Copies {
		if state == CopyDamaged {
			all = append(all, i)
		}
	}
	data, err := s.assemble(ctx, k.Object, all)
	if err != nil && ctx.Err() != nil {
		return nil, fmt.Errorf("repair: %w", context.Cause(ctx))
	}
	return data, nil
}

// errScattered: the copies together do not have all of the object.
var errScattered = errors.New("no copy has all of it unharmed, nor have all together")

// assemble puts a pack together from the parts that are sound in some of its
// copies: each chunk's hash is in the clear directory. What comes of it must pass
// the decoder like any other.
func (s *scrubber) assemble(ctx context.Context, object string, from []int) ([]byte, error) {
	var reads [][]byte
	for _, i := range from {
		data, err := s.copies[i].Get(ctx, object, 0, -1)
		if err != nil {
			continue // what is not there, or cannot be read, has no part in it
		}
		if s.o.Pace != nil {
			if err := s.o.Pace(ctx, len(data)); err != nil {
				return nil, err
			}
		}
		reads = append(reads, data)
	}
	whole, ok := pack.Assemble(reads)
	if !ok {
		return nil, errScattered
	}
	if err := s.check(object, whole); err != nil {
		return nil, err
	}
	return whole, nil
}
