package vault

import (
	"cmp"
	"context"
	"fmt"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/pack"
)

// candidate is a pack that a repack would empty.
type candidate struct {
	id         pack.ID
	size, live int64
	scattered  bool
}

const (
	// candidatesKept bounds how many packs one repack takes on.
	candidatesKept = 1024
	// localShare is how little of a pack the newest points must read, of what a
	// full one holds, for a scattered disk to be helped by emptying it.
	localShare = 0.25
)

// choose says whether a pack should be emptied, and why.
func choose(p *surveyedPack, liveFraction float64) (reason string, ok bool) {
	if !p.needed || p.size == 0 {
		return "", false
	}
	if rest := p.rest(); float64(rest) < liveFraction*float64(p.size) {
		return fmt.Sprintf("%d %% of it is needed", rest*100/p.size), true
	}
	if p.scattered && float64(p.newest) < localShare*pack.Target {
		return "the newest point of a disk reads it for little, among very many", true
	}
	return "", false
}

// emptiest orders candidates by how much is won for what is moved; scattered
// ones, of which little may be won, come last.
func emptiest(a, b candidate) int {
	return cmp.Or(cmp.Compare(boolInt(a.scattered), boolInt(b.scattered)),
		cmp.Compare(float64(a.live)/float64(a.size), float64(b.live)/float64(b.size)), comparePackIDs(a.id, b.id))
}

func boolInt(b bool) int {
	if b {
		return 1
	}
	return 0
}

// picker keeps the best candidates within the bounds of a run.
type picker struct {
	kept    []candidate
	reasons map[pack.ID]string
	seen    int
}

func (k *picker) add(c candidate, reason string) {
	k.seen++
	k.kept = append(k.kept, c)
	k.reasons[c.id] = reason
	if len(k.kept) >= 2*candidatesKept {
		k.trim(candidatesKept)
	}
}

// trim keeps the best n.
func (k *picker) trim(n int) {
	slices.SortFunc(k.kept, emptiest)
	for _, c := range k.kept[min(n, len(k.kept)):] {
		delete(k.reasons, c.id)
	}
	k.kept = k.kept[:min(n, len(k.kept))]
}

// within returns those that fit into a budget of bytes to be moved; one always does.
func (k *picker) within(budget int64) []candidate {
	k.trim(candidatesKept)
	var sum int64
	for i, c := range k.kept {
		if sum += c.live; sum > budget && i > 0 {
			return k.kept[:i]
		}
	}
	return k.kept
}

// Plan looks at the whole vault and says what would be done. It writes nothing.
// Of the plan's Trash only List, Packs and Rescued are filled in: what may be
// deleted when is decided by who knows the jobs.
func (r *Reclaim) Plan(ctx context.Context) (backstay.ReclaimPlan, error) {
	plan := backstay.ReclaimPlan{Vault: r.v.Name(), At: r.o.Now, Trash: []backstay.CondemnedPacks{}, Repack: []backstay.PackToMove{}}
	view, err := r.look(ctx)
	if err != nil {
		return plan, err
	}
	kept, _, err := r.writing(ctx)
	if err != nil {
		return plan, err
	}
	for _, l := range view.lists {
		plan.Trash = append(plan.Trash, backstay.CondemnedPacks{List: l.id(), Waits: []backstay.Lease{}})
	}
	plan.Points, plan.Manifests = len(view.committed()), len(view.dropped)
	pick := &picker{reasons: map[pack.ID]string{}}
	s := &survey{r: r, view: view, chunks: !r.o.NoRepack}
	err = s.each(ctx, func(p *surveyedPack) error {
		plan.Packs.Add(p.size)
		plan.Live += p.live
		inTrash := false
		for i, l := range view.lists {
			if p.copies > 0 && l.has(p.id) {
				inTrash = true
				plan.Trash[i].Packs.Add(p.size)
				if p.needed || p.held {
					plan.Trash[i].Rescued.Add(p.size)
				}
			}
		}
		switch {
		case inTrash || kept[p.id]:
		case !p.needed && p.held:
		case !p.needed:
			plan.Condemn.Add(p.size)
		case s.chunks:
			if reason, ok := choose(p, r.o.LiveFraction); ok {
				pick.add(candidate{id: p.id, size: p.size, live: p.rest(), scattered: p.scattered}, reason)
			}
		}
		return nil
	})
	if err != nil {
		return plan, err
	}
	r.candidates = pick.within(r.o.MoveBytes)
	for _, c := range r.candidates {
		plan.Repack = append(plan.Repack, backstay.PackToMove{Pack: c.id.String(), Bytes: c.size, Live: c.live, Reason: pick.reasons[c.id]})
	}
	plan.RepackLater = pick.seen - len(r.candidates)
	if err := r.planTidy(ctx, &plan); err != nil {
		return plan, err
	}
	r.plan = &plan
	r.o.OnStage(StageLooked)
	return plan, nil
}

// planTidy counts what tidying would rewrite and remove.
func (r *Reclaim) planTidy(ctx context.Context, plan *backstay.ReclaimPlan) error {
	prunable, err := r.v.chain.Prunable(ctx)
	if err != nil {
		return r.halt("read the vault's chain", err)
	}
	plan.Records = len(prunable)
	objects, err := r.indexes(ctx)
	if err != nil {
		return err
	}
	for _, i := range toJoin(objects) {
		plan.Indexes.Add(i.Size)
	}
	return nil
}

// toJoin picks index objects that are to be joined: the small ones, once there
// are many.
func toJoin(all []blob.Info) []blob.Info {
	var small []blob.Info
	for _, i := range all {
		if i.Size < smallIndex {
			small = append(small, i)
		}
	}
	if len(small) <= manyIndexes {
		return nil
	}
	return small
}
