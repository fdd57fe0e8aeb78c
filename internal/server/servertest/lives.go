package servertest

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// lives has no VM that could be hurried or thrown away.
type lives struct{}

func (lives) Hurry(context.Context, backstay.JobID) error   { return nil }
func (lives) Abandon(context.Context, backstay.JobID) error { return nil }
