package vault

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// Contents is one point as the vault alone tells it.
type Contents struct {
	Point backstay.PointID
	// Facts are what was recorded when the point was committed.
	Facts backstay.RecoveryPoint
	// Damage says why they cannot be read; every other field is then empty.
	Damage error
}

// Contents returns every point of the vault with its facts, damaged ones too. An
// error means that it is not known what the vault holds (I6).
func (v *Vault) Contents(ctx context.Context) ([]Contents, error) {
	headers, err := v.Points(ctx)
	if err != nil {
		return nil, err
	}
	all := make([]Contents, 0, len(headers))
	for _, h := range headers {
		c := Contents{Point: h.Point, Damage: h.Damage}
		if h.Damage == nil {
			p, err := v.OpenPoint(ctx, h.Point)
			switch {
			case err == nil:
				c.Facts = p.Facts()
			case backstay.IsCode(err, backstay.CodeUnknownPoint):
				continue // dropped since
			case backstay.IsCode(err, backstay.CodeDamaged):
				c.Damage = err
			default:
				return nil, err
			}
		}
		all = append(all, c)
	}
	return all, nil
}

// Redundancy returns what the vault's header asks for.
func (v *Vault) Redundancy() backstay.Redundancy { return v.header.Redundancy }

// Created returns when the vault was made.
func (v *Vault) Created() time.Time { return v.header.Created }
