package restore

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// way is one kind of restore. What all kinds have in common is in plan.go,
// preflight.go and run.go.
type way interface {
	// check refuses a request that makes no sense.
	check(r backstay.RestoreRequest, f Facts) error
	// candidates are the paths that a plan would use.
	candidates(r backstay.RestoreRequest, p backstay.RecoveryPoint, host backstay.Host) []string
	// plan fills in what the plan has of its own, and the tasks of the job.
	plan(r backstay.RestoreRequest, f Facts, plan *backstay.RestorePlan)
	// preflight lists everything that would fail, before anything is touched.
	preflight(r backstay.RestoreRequest, f Facts, plan backstay.RestorePlan) []backstay.Check
	// run carries the plan out, or goes on with it in a later life.
	run(ctx context.Context, a *attempt) error
	// end decides what of a failed restore stays, and returns the failure.
	end(ctx context.Context, a *attempt, failure error) error
}

// ways are all that there are.
var ways = map[backstay.RestoreKind]way{
	backstay.CreateVM: alternate{},
}

func wayOf(kind backstay.RestoreKind) (way, error) {
	if w, ok := ways[kind]; ok {
		return w, nil
	}
	return nil, backstay.Errorf(backstay.CodeUsage, "%q is no kind of restore", kind).Becausef("this server knows none of that name").
		Do("see `backstay restore --help`")
}
