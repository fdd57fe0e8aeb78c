package server

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type pointInput struct {
	Point string `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
}

type restoresInput struct {
	Point string            `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
	Host  backstay.HostName `query:"host" doc:"the host that shall get what is restored; empty for the point's own"`
}

type listPointsInput struct {
	VM string `query:"vm" doc:"only those of this VM: UUID, NAME or HOST/NAME"`
}

func (s *server) registerPoints() {
	add(s, "listPoints", s.listPoints)
	add(s, "getPoint", func(ctx context.Context, in *pointInput) (*answer[backstay.RecoveryPoint], error) {
		p, err := s.point(ctx, in.Point)
		if err != nil {
			return nil, err
		}
		if err := s.withReplicas(ctx, &p); err != nil {
			return nil, err
		}
		if p.Restores, err = s.possible(ctx, p, ""); err == nil {
			var short map[backstay.VaultName]int
			short, err = s.short(ctx)
			p.ShortCopies = shortOf(p, short)
		}
		return &answer[backstay.RecoveryPoint]{p}, err
	})
	add(s, "getPointRestores", func(ctx context.Context, in *restoresInput) (*answer[backstay.PossibleRestores], error) {
		p, err := s.point(ctx, in.Point)
		if err != nil {
			return nil, err
		}
		r, err := s.possible(ctx, p, in.Host)
		return &answer[backstay.PossibleRestores]{r}, err
	})
	add(s, "pinPoint", func(ctx context.Context, in *pointInput) (*answer[backstay.RecoveryPoint], error) {
		return s.pin(ctx, in, true)
	})
	add(s, "unpinPoint", func(ctx context.Context, in *pointInput) (*answer[backstay.RecoveryPoint], error) {
		return s.pin(ctx, in, false)
	})
	add(s, "deletePoint", s.deletePoint)
	add(s, "verifyPoint", s.verifyPoint)
}

func (s *server) listPoints(ctx context.Context, in *listPointsInput) (*answer[[]backstay.RecoveryPoint], error) {
	var vm backstay.VMID
	if in.VM != "" && callOf(ctx).who.Point == "" { // such a token has one point, and learns of no VM
		ref, err := s.vmRef(ctx, in.VM)
		if err != nil {
			return nil, err
		}
		vm = ref.UUID
	}
	points, err := s.Catalog.Points.ListPoints(ctx, vm)
	if err != nil {
		return nil, err
	}
	points = s.ownPoints(ctx, points)
	m, err := s.matrix(ctx, "")
	if err != nil {
		return nil, err
	}
	short, err := s.short(ctx)
	if err != nil {
		return nil, err
	}
	shown := make([]*backstay.RecoveryPoint, len(points))
	for i := range points {
		points[i].Restores = m.of(points[i])
		points[i].ShortCopies = shortOf(points[i], short)
		shown[i] = &points[i]
	}
	if err := s.withReplicas(ctx, shown...); err != nil {
		return nil, err
	}
	slices.SortStableFunc(points, func(a, b backstay.RecoveryPoint) int { return b.Time.Compare(a.Time) })
	return &answer[[]backstay.RecoveryPoint]{points}, nil
}

// short is of how many copies each vault is short.
func (s *server) short(ctx context.Context) (map[backstay.VaultName]int, error) {
	all, err := s.Catalog.Vaults.ListVaults(ctx)
	if err != nil {
		return nil, err
	}
	short := map[backstay.VaultName]int{}
	for _, v := range all {
		short[v.Name] = v.Short()
	}
	return short, nil
}

func shortOf(p backstay.RecoveryPoint, short map[backstay.VaultName]int) int {
	if !p.Has(backstay.VaultTier) {
		return 0
	}
	return short[p.Vault]
}

// possible says which restores one point allows, on a host or on its own.
func (s *server) possible(ctx context.Context, p backstay.RecoveryPoint, on backstay.HostName) (backstay.PossibleRestores, error) {
	m, err := s.matrix(ctx, on)
	if err != nil {
		return backstay.PossibleRestores{}, err
	}
	return m.of(p), nil
}

func pinned(p backstay.RecoveryPoint) error {
	return backstay.Errorf(backstay.CodeConflict, "the point %s is pinned", p.ID).Becausef("somebody asked to keep it").Do("keep it, or unpin it first")
}

// pin pins a point or lets it go. Beside the disks it is written first: what the
// catalogue says is then never more than what holds.
func (s *server) pin(ctx context.Context, in *pointInput, pinned bool) (*answer[backstay.RecoveryPoint], error) {
	p, err := s.point(ctx, in.Point)
	if err != nil {
		return nil, err
	}
	if pinned && !p.Has(backstay.SnapshotTier) && !p.Has(backstay.VaultTier) {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "the point %s cannot be pinned", p.ID).Becausef("%s", readable(p).Reason)
	}
	if slices.ContainsFunc(p.Tiers, func(t backstay.PointTier) bool { return t.Tier == backstay.SnapshotTier }) {
		err := s.Layers.Pin(ctx, p.VM.Host, p.ID, pinned)
		// A point that left the host meanwhile is in its vault, or nowhere.
		if err != nil && !(backstay.IsCode(err, backstay.CodeUnknownPoint) && (!pinned || p.Has(backstay.VaultTier))) {
			return nil, err
		}
	}
	err = s.Catalog.Points.ChangePoint(ctx, p.ID, func(now *backstay.RecoveryPoint) error {
		now.Pinned = pinned
		p = *now
		return nil
	})
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownPoint, "point", in.Point)
	}
	p.Restores, err = s.possible(ctx, p, "")
	return &answer[backstay.RecoveryPoint]{p}, err
}

func (s *server) deletePoint(ctx context.Context, in *pointInput) (*answer[backstay.Job], error) {
	p, err := s.point(ctx, in.Point)
	if err != nil {
		return nil, err
	}
	if p.Pinned {
		return nil, pinned(p)
	}
	if err := s.notCarried(ctx, p); err != nil {
		return nil, err
	}
	job, err := s.submitExpire(ctx, p)
	return &answer[backstay.Job]{job}, err
}

// notCarried refuses while a job still carries the point to its vault: it reads
// the layers that would go.
func (s *server) notCarried(ctx context.Context, p backstay.RecoveryPoint) error {
	carried := slices.ContainsFunc(p.Tiers, func(t backstay.PointTier) bool {
		return t.Tier == backstay.VaultTier && t.State == backstay.TierCreating
	})
	if !carried || p.Job == "" {
		return nil
	}
	job, err := s.Jobs.Get(ctx, p.Job)
	if backstay.IsCode(err, backstay.CodeUnknownJob) || err == nil && job.State.Ended() {
		return nil
	}
	if err != nil {
		return err
	}
	return backstay.Errorf(backstay.CodeConflict, "the point %s is on its way to its vault", p.ID).
		Becausef("job %s is %s", job.ID, job.State).
		Do("wait for the job %s, or cancel it: `backstay job cancel %s`", job.ID, job.ID)
}

// submitExpire queues the deletion of one point.
func (s *server) submitExpire(ctx context.Context, p backstay.RecoveryPoint) (backstay.Job, error) {
	return s.submit(ctx, JobRequest{
		Kind: backstay.JobExpire, Target: label(p.VM), Point: p.ID, VMs: []backstay.VMID{p.VM.UUID}, Host: p.VM.Host, Vault: p.Vault,
		Params: backstay.ExpireParams{VM: p.VM.UUID, Point: p.ID},
	})
}

type verifyInput struct {
	Point string `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
	Body  *api.VerifyRequest
}

func (s *server) verifyPoint(ctx context.Context, in *verifyInput) (*answer[backstay.Job], error) {
	p, err := s.point(ctx, in.Point)
	if err != nil {
		return nil, err
	}
	tier := backstay.SnapshotTier
	if p.Has(backstay.VaultTier) {
		tier = backstay.VaultTier
	}
	if in.Body != nil && in.Body.Tier != "" {
		tier = in.Body.Tier
	}
	if !p.Has(tier) {
		return nil, backstay.Errorf(backstay.CodeNotRestorable, "the point %s cannot be read from the %s tier", p.ID, tier).
			Becausef("its copy there is not available")
	}
	r := JobRequest{
		Kind: backstay.JobVerify, Target: label(p.VM), Point: p.ID, Host: p.VM.Host,
		Params: backstay.VerifyParams{Point: p.ID, Tier: tier},
	}
	if tier == backstay.VaultTier {
		r.Vault = p.Vault
	}
	job, err := s.submit(ctx, r)
	return &answer[backstay.Job]{job}, err
}
