package vault

import (
	"cmp"
	"context"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chain"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// ReclaimOptions say how a vault is reclaimed; the zero value is right.
type ReclaimOptions struct {
	// Now is the time that is written into records.
	Now time.Time
	// NoRepack leaves alone packs that are needed in part.
	NoRepack bool
	// LiveFraction is how much of a pack must be needed, of its bytes, for it to
	// be left as it is; 0 means 0.6.
	LiveFraction float64
	// Memory bounds the tables of a look at the vault, in bytes; 0 means 96 MiB.
	// A vault with more packs is looked at in several passes.
	Memory int64
	// MoveBytes bounds what one repack moves; 0 means 1 GiB.
	MoveBytes int64
	// CondemnPacks bounds how many packs one run condemns; 0 means a million.
	CondemnPacks int
	// Writing tells what jobs write the vault now. It is called after the vault
	// was looked at. Without it manifests whose commit broke off are left alone,
	// because somebody may finish them.
	Writing func(context.Context) (Writing, error)
	// Packs are those that an interrupted repack put; what is sound of them is
	// used again.
	Packs []string
	// OnPack is called with each pack that a repack made durable in all copies.
	OnPack func(id string) error
	// Progress is called with bytes done and the best estimate of the total.
	Progress func(done, total int64)
	// OnStage is called where one stage has ended and the next not begun: for
	// those who want to see what happens between.
	OnStage func(ReclaimStage)
}

// Writing is what jobs under way have in hand. It is safe anyway; leaving it
// alone spares them from storing it again.
type Writing struct {
	Packs  []string
	Points []backstay.PointID
}

// ReclaimStage is a place between two stages of a reclaim.
type ReclaimStage string

// The stages, each named by what has just happened.
const (
	StageLooked    ReclaimStage = "looked"    // every point's needs are known
	StagePacked    ReclaimStage = "packed"    // a repack's packs are durable and proved
	StageIndexed   ReclaimStage = "indexed"   // and their index
	StageMoved     ReclaimStage = "moved"     // and the chain says so
	StageListed    ReclaimStage = "listed"    // the list of condemned packs is durable
	StageCondemned ReclaimStage = "condemned" // and the chain says so
	StageFenced    ReclaimStage = "fenced"    // no writer from before may refer to the list
	StageChosen    ReclaimStage = "chosen"    // what of the list is not needed is known
	StageDeleted   ReclaimStage = "deleted"   // and gone
)

// CondemnedList is one list of condemned packs.
type CondemnedList struct {
	ID    string
	Packs int
	// Fenced tells that its deletion has begun.
	Fenced bool
}

// Reclaim gives back what no point of a vault needs. Its methods are not for
// concurrent use; any number of writers and readers may be at work meanwhile,
// and each method can be called again after it was cut off anywhere.
//
// What is needed is told by the chain and the manifests alone: a listing decides
// what may go, never what must stay, and one that fails or shows less than the
// points need stops everything (I6).
type Reclaim struct {
	v *Vault
	o ReclaimOptions

	plan       *backstay.ReclaimPlan // of the last look
	candidates []candidate           // for a repack, in the order of the plan
}

// Reclaim returns a reclaim of the vault. It touches nothing yet.
func (v *Vault) Reclaim(o ReclaimOptions) *Reclaim {
	o.LiveFraction = cmp.Or(o.LiveFraction, 0.6)
	o.Memory = cmp.Or(o.Memory, 96<<20)
	o.MoveBytes = cmp.Or(o.MoveBytes, 1<<30)
	o.CondemnPacks = cmp.Or(o.CondemnPacks, 1<<20)
	if o.OnStage == nil {
		o.OnStage = func(ReclaimStage) {}
	}
	if o.Progress == nil {
		o.Progress = func(int64, int64) {}
	}
	return &Reclaim{v: v, o: o}
}

// stopped is the error of a vault that is not in order.
func (r *Reclaim) stopped(format string, args ...any) *backstay.Error {
	return backstay.Errorf(backstay.CodeReclaimStopped, "reclaim of the vault %s stopped, and nothing was deleted", r.v.Name()).Becausef(format, args...)
}

// halt makes an error that stops a reclaim say so, unless it is the caller's own
// wish to end.
func (r *Reclaim) halt(what string, err error) error {
	if backstay.IsCode(err, backstay.CodeReclaimStopped) {
		return err
	}
	if coded := passed(err); coded != nil && backstay.AsError(coded).Code == backstay.CodeInternal {
		return coded
	}
	return backstay.Errorf(backstay.CodeReclaimStopped, "reclaim of the vault %s stopped, and nothing was deleted", r.v.Name()).
		Because(fmt.Errorf("%s: %w", what, err))
}

// Lists returns the lists of condemned packs, oldest first.
func (r *Reclaim) Lists(ctx context.Context) ([]CondemnedList, error) {
	view, err := r.lookLists(ctx)
	if err != nil {
		return nil, err
	}
	lists := make([]CondemnedList, 0, len(view.lists))
	for _, l := range view.lists {
		lists = append(lists, CondemnedList{ID: l.id(), Packs: len(l.packs), Fenced: l.Fence != 0})
	}
	return lists, nil
}

// writing asks what jobs have in hand.
func (r *Reclaim) writing(ctx context.Context) (packs map[pack.ID]bool, points map[backstay.PointID]bool, err error) {
	packs, points = map[pack.ID]bool{}, map[backstay.PointID]bool{}
	if r.o.Writing == nil {
		return packs, nil, nil
	}
	now, err := r.o.Writing(ctx)
	if err != nil {
		return nil, nil, err
	}
	for _, text := range now.Packs {
		id, err := pack.ParseID(text)
		if err != nil {
			return nil, nil, backstay.Errorf(backstay.CodeUsage, "a pack that a job wrote is not one").Because(err)
		}
		packs[id] = true
	}
	for _, id := range now.Points {
		points[id] = true
	}
	return packs, points, nil
}

// append adds a record to the chain.
func (r *Reclaim) append(ctx context.Context, decide func(chain.State) (chain.Record, error)) error {
	st, err := r.v.chain.Append(ctx, func(st chain.State) (chain.Record, error) {
		record, err := decide(st)
		record.Time = r.o.Now
		return record, err
	})
	if err != nil {
		return chainError(err)
	}
	r.v.remember(st)
	return nil
}
