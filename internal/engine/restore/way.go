package restore

import (
	"context"
	"encoding/json"
	"fmt"
	"slices"
	"strings"

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
	backstay.CreateVM:     alternate{},
	backstay.ReplaceDisks: original{},
	backstay.RestoreDisks: disksOnly{},
}

// common are the fields of a request that every kind knows, by their names on
// the wire; known are those of one kind alone.
var (
	common = []string{"kind", "point", "tier", "host", "dryRun"}
	known  = map[backstay.RestoreKind][]string{
		backstay.CreateVM: {
			"name", "pool", "networks", "keepMAC", "keepUUID", "noStart", "partial", "isolated", "probe", "live", "machine",
		},
		backstay.ReplaceDisks: {"disks", "stop", "start", "noSafetyPoint", "full", "discardSaved", "keepOld", "probe", "vm"},
		backstay.RestoreDisks: {"disks", "osDisk", "to", "format"},
	}
)

// checkFields refuses what a kind would pass over: a name for the VM whose disks
// are replaced, for instance, is not quietly the name of something else.
func checkFields(r backstay.RestoreRequest) error {
	data, err := json.Marshal(r)
	if err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var given map[string]json.RawMessage
	if err := json.Unmarshal(data, &given); err != nil {
		return fmt.Errorf("read the request: %w", err)
	}
	var foreign []string
	for field := range given {
		if !slices.Contains(common, field) && !slices.Contains(known[r.Kind], field) {
			foreign = append(foreign, field)
		}
	}
	if len(foreign) == 0 {
		return nil
	}
	slices.Sort(foreign)
	return backstay.Errorf(backstay.CodeUsage, "a restore of the kind %s knows no %s", r.Kind, strings.Join(foreign, ", ")).
		Becausef("it would be passed over").Do("leave it out; see `backstay restore %s --help`", r.Kind)
}

func wayOf(kind backstay.RestoreKind) (way, error) {
	if w, ok := ways[kind]; ok {
		return w, nil
	}
	return nil, backstay.Errorf(backstay.CodeUsage, "%q is no kind of restore", kind).Becausef("this server knows none of that name").
		Do("see `backstay restore --help`")
}
