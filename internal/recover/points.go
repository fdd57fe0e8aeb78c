package recover

import (
	"cmp"
	"context"
	"fmt"
	"slices"
	"strings"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/tier/vault"
)

// Disk is a disk of a point.
type Disk struct {
	Target backstay.DiskTarget `json:"target"`
	Size   int64               `json:"size"` // guest-visible bytes
	Format string              `json:"format"`
	// SHA256 is of the whole guest-visible content, nil if no verify computed it
	// before the point was committed.
	SHA256 *string `json:"sha256"`
}

// Point is a recovery point as the units alone tell of it.
type Point struct {
	ID                backstay.PointID     `json:"id"`
	VM                backstay.VMRef       `json:"vm"`
	Vault             backstay.VaultName   `json:"vault"`
	Time              time.Time            `json:"time,omitzero"`
	Expires           *time.Time           `json:"expires"`
	Consistency       backstay.Consistency `json:"consistency"`
	ConsistencyReason string               `json:"consistencyReason"`
	Firmware          backstay.Firmware    `json:"firmware"`
	TPM               bool                 `json:"tpm"`
	Disks             []Disk               `json:"disks"`
	Size              int64                `json:"size"` // of all disks, in bytes
	// CopiesSound is in how many copies the manifest is sound, of CopiesWanted.
	CopiesSound  int `json:"copiesSound"`
	CopiesWanted int `json:"copiesWanted"`
	// Damage says why the point cannot be used, Unreadable why nobody can tell (I5).
	// The fields that only its manifest knows are empty then.
	Damage     string `json:"damage"`
	Unreadable string `json:"unreadable"`
	// Unchained says why the vault's chain cannot tell whether this is what was
	// committed and not dropped since. The point can be restored; whether it should
	// be is for a person to say.
	Unchained string `json:"unchained"`
	// Newer are points that cannot be read and may be newer ones of the same VM:
	// set by Find when it chose the newest that can be.
	Newer []backstay.PointID `json:"newer,omitempty"`
}

// usable tells whether the manifest could be read.
func (p Point) usable() bool { return p.Damage == "" && p.Unreadable == "" }

// Points lists all points, newest first. One whose manifest is damaged is in the
// list with its Damage, never hidden. vm limits the list to the points of a VM: a
// name, HOST/NAME or UUID; what cannot be read is listed whatever it is, because
// only the manifests know of which VM they are.
func (v *Vault) Points(ctx context.Context, vm string) ([]Point, error) {
	headers, err := v.vault.Points(ctx)
	if err != nil && ctx.Err() == nil {
		headers, err = v.oneByOne(ctx) // a manifest that cannot be read hides no other one
	}
	if err != nil {
		return nil, err
	}
	points := []Point{}
	for _, h := range headers {
		p, err := v.describe(ctx, h)
		if backstay.IsCode(err, backstay.CodeUnknownPoint) {
			continue // dropped, or never committed
		}
		if err != nil {
			return nil, err
		}
		if vm == "" || !p.usable() || isOf(p.VM, vm) {
			points = append(points, p)
		}
	}
	slices.SortStableFunc(points, func(a, b Point) int {
		return cmp.Or(b.Time.Compare(a.Time), strings.Compare(string(b.ID), string(a.ID)))
	})
	return points, nil
}

// oneByOne lists what any copy has a manifest of, without asking what the
// manifests are.
func (v *Vault) oneByOne(ctx context.Context) ([]vault.Header, error) {
	var headers []vault.Header
	err := replica.New(v.used...).List(ctx, pointFolder, func(i blob.Info) error {
		h := vault.Header{Point: backstay.PointID(strings.TrimPrefix(i.Name, pointFolder)), Want: len(v.used)}
		h.Copies = v.soundCopies(ctx, h.Point)
		headers = append(headers, h)
		return nil
	})
	if err != nil {
		return nil, backstay.Errorf(backstay.CodeVaultAway, "the points of the vault %s cannot be listed", v.name).Because(err)
	}
	return headers, nil
}

// pointFolder is where manifests are.
const pointFolder = "points/"

// soundCopies counts the copies in which a manifest is sound.
func (v *Vault) soundCopies(ctx context.Context, id backstay.PointID) int {
	n := 0
	for _, s := range v.used {
		object := pointFolder + string(id)
		if data, err := s.Get(ctx, object, 0, -1); err == nil && vault.CheckObject(v.id, v.keyset, object, data) == nil {
			n++
		}
	}
	return n
}

// describe opens a point's manifest. Damage, and not being able to read, are part
// of the answer; CodeUnknownPoint if the vault does not offer the point.
func (v *Vault) describe(ctx context.Context, h vault.Header) (Point, error) {
	p := Point{ID: h.Point, Vault: v.name, Disks: []Disk{}, CopiesSound: h.Copies, CopiesWanted: max(v.want, h.Want)}
	err := h.Damage
	var o *vault.Point
	if err == nil {
		o, err = v.vault.OpenPoint(ctx, h.Point)
	}
	switch {
	case err == nil:
	case ctx.Err() != nil:
		return p, ctx.Err()
	case backstay.IsCode(err, backstay.CodeUnknownPoint):
		return p, err
	case backstay.IsCode(err, backstay.CodeVaultAway):
		p.Unreadable = err.Error()
		return p, nil
	default:
		p.Damage = err.Error()
		return p, nil
	}
	facts, header := o.Facts(), o.Header()
	p.VM, p.Time, p.Expires = facts.VM, header.Time, header.Expires
	p.Consistency, p.ConsistencyReason = facts.Consistency, facts.ConsistencyReason
	p.Firmware, p.TPM = facts.Firmware, facts.TPM
	if header.Unchained != nil {
		p.Unchained = header.Unchained.Error()
	}
	for _, d := range facts.Disks {
		if d.Included {
			p.Disks = append(p.Disks, Disk{Target: d.Target, Size: d.Size, Format: d.Format, SHA256: d.SHA256})
			p.Size += d.Size
		}
	}
	return p, nil
}

func isOf(ref backstay.VMRef, vm string) bool {
	return ref.Name == vm || strings.EqualFold(string(ref.UUID), vm) || string(ref.Host)+"/"+ref.Name == vm
}

// Find returns the point that text means: an id, VM@latest, or VM@TIME for the
// newest at or before TIME (RFC 3339). CodeUnknownPoint if there is none,
// CodeDamaged if it is one whose manifest is damaged in every copy, CodeAmbiguousVM
// if two VMs have the name.
func (v *Vault) Find(ctx context.Context, text string) (Point, error) {
	vm, at, byTime := strings.Cut(text, "@")
	if !byTime {
		id := strings.ToUpper(text)
		if _, err := ulid.ParseStrict(id); err != nil {
			return Point{}, backstay.Errorf(backstay.CodeUnknownPoint, "%q is not the id of a recovery point", text).
				Becausef("ids have 26 letters and digits").Do("say VM@latest for the newest of a VM, or list them with `backstay recover points`")
		}
		return v.byID(ctx, backstay.PointID(id))
	}
	until := time.Time{}
	if at != "latest" {
		t, err := time.Parse(time.RFC3339, at)
		if err != nil {
			return Point{}, backstay.Errorf(backstay.CodeUsage, "%q does not name a recovery point", text).
				Becausef("behind the @ comes latest, or a time such as 2026-11-22T10:00:00Z")
		}
		until = t
	}
	points, err := v.Points(ctx, "")
	if err != nil {
		return Point{}, err
	}
	return newest(points, vm, until)
}

// byID opens one manifest, and counts the copies in which it is sound.
func (v *Vault) byID(ctx context.Context, id backstay.PointID) (Point, error) {
	o, err := v.vault.OpenPoint(ctx, id)
	if backstay.IsCode(err, backstay.CodeUnknownPoint) {
		return Point{}, unknownPoint("there is no recovery point %s in the vault %s", id, v.name).Because(err)
	}
	if err != nil {
		return Point{}, fmt.Errorf("open point %s: %w", id, err)
	}
	h := o.Header()
	h.Copies = v.soundCopies(ctx, id)
	return v.describe(ctx, h)
}

// newest picks the newest point of a VM, at or before until unless that is zero.
func newest(points []Point, vm string, until time.Time) (Point, error) {
	var best *Point
	for i, p := range points {
		if !p.usable() || !isOf(p.VM, vm) {
			continue
		}
		if best != nil && best.VM.UUID != p.VM.UUID {
			return Point{}, backstay.Errorf(backstay.CodeAmbiguousVM, "the name %q is that of two VMs", vm).
				Becausef("%s/%s (%s) and %s/%s (%s)", best.VM.Host, best.VM.Name, best.VM.UUID, p.VM.Host, p.VM.Name, p.VM.UUID).
				Do("give the UUID instead of the name, or the id of a point")
		}
		if best == nil && (until.IsZero() || !p.Time.After(until)) {
			best = &points[i]
		}
	}
	if best == nil {
		return Point{}, unknownPoint("the vault has no usable recovery point of %s at that time", vm)
	}
	for _, p := range points {
		if !p.usable() && p.ID > best.ID && (until.IsZero() || !p.madeAfter(until)) {
			best.Newer = append(best.Newer, p.ID)
		}
	}
	return *best, nil
}

// madeAfter tells by a point's id, which begins with the time at which it was made.
func (p Point) madeAfter(t time.Time) bool {
	id, err := ulid.ParseStrict(string(p.ID))
	return err == nil && ulid.Time(id.Time()).After(t)
}

func unknownPoint(format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeUnknownPoint, format, args...).
		Becausef("no storage unit that was given has it").Do("list what there is with `backstay recover points`")
}

// open opens a point that Find returned.
func (v *Vault) open(ctx context.Context, id backstay.PointID) (*vault.Point, error) {
	p, err := v.vault.OpenPoint(ctx, id)
	if err != nil {
		return nil, fmt.Errorf("open point %s: %w", id, err)
	}
	return p, nil
}
