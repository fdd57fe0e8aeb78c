package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type unitInput struct {
	Unit string `path:"unit" doc:"the unit's URL"`
}

type addUnitInput struct{ Body api.NewUnit }

func (s *server) registerUnits() {
	add(s, "listUnits", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Unit], error) {
		units, err := s.Units.ListUnits(ctx)
		return &answer[[]backstay.Unit]{units}, err
	})
	add(s, "addUnit", func(ctx context.Context, in *addUnitInput) (*answer[backstay.Unit], error) {
		if err := checkUnitURL(in.Body.URL); err != nil {
			return nil, err
		}
		u, err := s.Units.AddUnit(ctx, in.Body)
		callOf(ctx).target = u.URL // as it is kept: without what has no business in a log
		return &answer[backstay.Unit]{u}, err
	})
	add(s, "getUnit", func(ctx context.Context, in *unitInput) (*answer[backstay.Unit], error) {
		u, err := s.Units.CheckUnit(ctx, in.Unit)
		return &answer[backstay.Unit]{u}, err
	})
}
