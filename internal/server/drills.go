package server

import (
	"context"
	"errors"
	"net/http"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
)

// planPrefix says of a name that it is that of a plan of drills: plan:NAME.
const planPrefix = "plan:"

type drillInput struct {
	Drill string `path:"drill"`
}

type drillsInput struct {
	Limit int `query:"limit" minimum:"0" maximum:"10000" doc:"the most records; 0 means 100"`
}

type planInput struct {
	Plan string `path:"plan"`
}

type startDrillInput struct{ Body api.StartDrillRequest }

type createPlanInput struct{ Body api.CreateDrillPlanRequest }

type scheduleDrillInput struct {
	Plan string `path:"plan"`
	Body api.ScheduleDrillRequest
}

func (s *server) registerDrills() {
	add(s, "startDrill", s.startDrill)
	add(s, "listDrills", s.listDrills)
	add(s, "getDrill", func(ctx context.Context, in *drillInput) (*answer[backstay.DrillRecord], error) {
		callOf(ctx).target = in.Drill
		r, err := s.drill(ctx, in.Drill)
		return &answer[backstay.DrillRecord]{r}, err
	})
	add(s, "listDrillPlans", s.listDrillPlans)
	add(s, "getDrillPlan", s.getDrillPlan)
	add(s, "createDrillPlan", s.createDrillPlan)
	add(s, "scheduleDrill", s.scheduleDrill)
	add(s, "deleteDrillPlan", func(ctx context.Context, in *planInput) (*struct{}, error) {
		plan, err := s.drillPlan(ctx, in.Plan)
		if err != nil {
			return nil, err
		}
		return nil, missing(s.Catalog.DrillPlans.DeleteDrillPlan(ctx, plan.Name), backstay.CodeUnknownDrill, "plan of drills", plan.Name)
	})
}

// drill finds a record by its id, or the newest one of a plan.
func (s *server) drill(ctx context.Context, name string) (backstay.DrillRecord, error) {
	r, err := s.Catalog.Drills.Drill(ctx, backstay.DrillID(strings.ToUpper(name)))
	if !errors.Is(err, catalog.ErrNotFound) {
		return r, err
	}
	records, err := s.Catalog.Drills.ListDrills(ctx, 0)
	if err != nil {
		return r, err
	}
	for _, r := range records {
		if string(r.Plan.Name) == strings.TrimPrefix(name, planPrefix) {
			return r, nil
		}
	}
	return r, backstay.Errorf(backstay.CodeUnknownDrill, "there is no drill %q", name).
		Becausef("no record has this id, and no plan of this name was run")
}

func (s *server) listDrills(ctx context.Context, in *drillsInput) (*answer[api.DrillList], error) {
	const usual = 100
	records, err := s.Catalog.Drills.ListDrills(ctx, 0)
	if err != nil {
		return nil, err
	}
	list := api.DrillList{Chain: api.DrillChain{Records: len(records)}}
	if len(records) > 0 {
		list.Chain.Head = records[0].Hash
	}
	oldestFirst := slices.Clone(records)
	slices.Reverse(oldestFirst)
	list.Chain.BrokenAt, list.Chain.How = backstay.CheckDrills(oldestFirst)
	list.Chain.Whole = list.Chain.BrokenAt == 0
	limit := in.Limit
	if limit == 0 {
		limit = usual
	}
	for _, r := range records[:min(limit, len(records))] {
		list.Drills = append(list.Drills, withoutPictures(r))
	}
	return &answer[api.DrillList]{list}, nil
}

// withoutPictures is a record as lists have it.
func withoutPictures(r backstay.DrillRecord) backstay.DrillRecord {
	r.VMs = slices.Clone(r.VMs)
	for i := range r.VMs {
		if shot := r.VMs[i].Screenshot; shot != nil {
			plain := *shot
			plain.PNG = nil
			r.VMs[i].Screenshot = &plain
		}
	}
	return r
}

// drillPlan finds a plan by NAME or plan:NAME.
func (s *server) drillPlan(ctx context.Context, name string) (backstay.DrillPlan, error) {
	plain := backstay.DrillName(strings.TrimPrefix(name, planPrefix))
	callOf(ctx).target = planPrefix + string(plain)
	plan, err := s.Catalog.DrillPlans.DrillPlan(ctx, plain)
	return plan, missing(err, backstay.CodeUnknownDrill, "plan of drills", plain)
}

func (s *server) listDrillPlans(ctx context.Context, _ *struct{}) (*answer[[]api.DrillPlanDetail], error) {
	plans, err := s.Catalog.DrillPlans.ListDrillPlans(ctx)
	if err != nil {
		return nil, err
	}
	records, err := s.Catalog.Drills.ListDrills(ctx, 0)
	if err != nil {
		return nil, err
	}
	details := []api.DrillPlanDetail{}
	for _, plan := range plans {
		details = append(details, s.planDetail(plan, records))
	}
	return &answer[[]api.DrillPlanDetail]{details}, nil
}

// planDetail is a plan with its newest record, and when it is due.
func (s *server) planDetail(plan backstay.DrillPlan, newestFirst []backstay.DrillRecord) api.DrillPlanDetail {
	d := api.DrillPlanDetail{DrillPlan: plan}
	var ran *time.Time
	for _, r := range newestFirst {
		if r.Plan.Name != plan.Name {
			continue
		}
		if d.Last == nil {
			last := withoutPictures(r)
			d.Last = &last
		}
		if r.Verdict != backstay.DrillAborted { // one that was cut off is run again
			ran = &r.Started
			break
		}
	}
	if _, next := plan.Due(ran, s.Now()); !next.IsZero() {
		d.Next = &next
	}
	return d
}

func (s *server) getDrillPlan(ctx context.Context, in *planInput) (*answer[api.DrillPlanDetail], error) {
	plan, err := s.drillPlan(ctx, in.Plan)
	if err != nil {
		return nil, err
	}
	records, err := s.Catalog.Drills.ListDrills(ctx, 0)
	return &answer[api.DrillPlanDetail]{s.planDetail(plan, records)}, err
}

func (s *server) createDrillPlan(ctx context.Context, in *createPlanInput) (*answer[api.DrillPlanDetail], error) {
	plan := wished(in.Body.DrillWish)
	plan.Name, plan.Every, plan.Since = in.Body.Name, in.Body.Every, s.Now().UTC()
	for _, vm := range in.Body.VMs {
		ref, err := s.vmRef(ctx, vm.VM)
		if err != nil {
			return nil, err
		}
		plan.VMs = append(plan.VMs, backstay.DrillVM{VM: ref.Name, UUID: ref.UUID, Delay: vm.Delay, NoWait: vm.NoWait, Probes: vm.Probes, Timeout: vm.Timeout})
	}
	callOf(ctx).target = planPrefix + string(plan.Name)
	if err := s.mayDrill(ctx, plan); err != nil {
		return nil, err
	}
	err := s.Catalog.DrillPlans.CreateDrillPlan(ctx, plan)
	if errors.Is(err, catalog.ErrExists) {
		return nil, backstay.Errorf(backstay.CodeExists, "there is a plan of drills %q already", plan.Name).Becausef("names of plans are unique in a region").
			Do("choose another name, or delete it first: `backstay drill plan delete %s`", plan.Name)
	}
	return &answer[api.DrillPlanDetail]{s.planDetail(plan, nil)}, err
}

func wished(w api.DrillWish) backstay.DrillPlan {
	return backstay.DrillPlan{Point: w.Point, From: w.From, Host: w.Host, Pool: w.Pool, Subnet: w.Subnet, MaxCPUs: w.MaxCPUs, MaxMemory: w.MaxMemory}
}

// mayDrill checks a plan, and that whoever lets a command run in a guest may see what
// is in it: its output is in the record.
func (s *server) mayDrill(ctx context.Context, plan backstay.DrillPlan) error {
	if err := plan.Check(); err != nil {
		return err
	}
	for _, vm := range plan.VMs {
		for _, p := range vm.Probes {
			if p.Kind == backstay.DrillCommand && !callOf(ctx).who.Files {
				return backstay.Errorf(backstay.CodeNotAllowed, "the probe %q may not be asked for", p).
					Becausef("what the command says is kept, and the token %q has no right to files", callOf(ctx).who.Name).
					Do("use another probe, or a token that was made with --files")
			}
		}
	}
	return nil
}

func (s *server) scheduleDrill(ctx context.Context, in *scheduleDrillInput) (*answer[api.DrillPlanDetail], error) {
	plan, err := s.drillPlan(ctx, in.Plan)
	if err != nil {
		return nil, err
	}
	plan.Every, plan.Since = in.Body.Every, s.Now().UTC()
	if err := plan.Check(); err != nil {
		return nil, err
	}
	err = s.Catalog.DrillPlans.ChangeDrillPlan(ctx, plan.Name, func(p *backstay.DrillPlan) error {
		p.Every, p.Since = plan.Every, plan.Since
		return nil
	})
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownDrill, "plan of drills", plan.Name)
	}
	return s.getDrillPlan(ctx, &planInput{in.Plan})
}

// startDrill plans first, and starts nothing that could not be restored.
func (s *server) startDrill(ctx context.Context, in *startDrillInput) (*started[api.StartDrillResponse], error) {
	callOf(ctx).audited = callOf(ctx).audited || in.Body.DryRun // a dry run changes nothing
	plan, err := s.drillSubject(ctx, in.Body)
	if err != nil {
		return nil, err
	}
	target := callOf(ctx).target
	if err := s.mayDrill(ctx, plan); err != nil {
		return nil, err
	}
	params, err := s.Drills.PlanDrill(ctx, plan)
	if err != nil {
		return nil, err
	}
	out := &started[api.StartDrillResponse]{Status: http.StatusOK, Body: api.StartDrillResponse{Drill: params}}
	if in.Body.DryRun {
		return out, nil
	}
	job, err := s.submit(ctx, DrillJob(target, params))
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}

// DrillJob is the job that runs a drill. The VMs that it makes are its own, and the
// slots it takes are those of its host and of the first vault that it reads.
func DrillJob(target string, params backstay.DrillParams) JobRequest {
	r := JobRequest{Kind: backstay.JobDrill, Target: target, Host: params.Host, Params: params}
	for i, planned := range params.Restores {
		r.VMs = append(r.VMs, planned.UUID)
		if r.Vault == "" && planned.Tier == backstay.VaultTier {
			r.Vault = planned.Vault
		}
		if len(params.Restores) == 1 {
			r.Point = params.VMs[i].Point
		}
	}
	return r
}

// drillSubject makes the plan of a drill of what a name means: a plan, a point, or a
// VM. A name that means both a plan and a VM is refused.
func (s *server) drillSubject(ctx context.Context, r api.StartDrillRequest) (backstay.DrillPlan, error) {
	plan, err := s.Catalog.DrillPlans.DrillPlan(ctx, backstay.DrillName(strings.TrimPrefix(r.Of, planPrefix)))
	isPlan := err == nil
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return plan, err
	}
	if strings.HasPrefix(r.Of, planPrefix) {
		if plan, err = s.drillPlan(ctx, r.Of); err != nil {
			return plan, err
		}
		return overridden(plan, r)
	}
	ref, vmErr := s.vmRef(ctx, r.Of)
	switch {
	case isPlan && (vmErr == nil || backstay.IsCode(vmErr, backstay.CodeAmbiguousVM)):
		return plan, backstay.Errorf(backstay.CodeAmbiguousVM, "the name %q means a VM and a plan of drills", r.Of).
			Becausef("it could be %s%s, or a VM of that name", planPrefix, plan.Name).Do("say %s%s, or HOST/NAME for a VM", planPrefix, plan.Name)
	case isPlan:
		callOf(ctx).target = planPrefix + string(plan.Name)
		return overridden(plan, r)
	}
	one := backstay.DrillVM{VM: ref.Name, UUID: ref.UUID, Probes: r.Probes, Timeout: r.Timeout}
	if vmErr != nil {
		p, err := s.point(ctx, r.Of)
		if backstay.IsCode(err, backstay.CodeUnknownPoint) && backstay.IsCode(vmErr, backstay.CodeUnknownVM) && !strings.Contains(r.Of, "@") {
			return plan, backstay.Errorf(backstay.CodeUnknownDrill, "there is nothing to drill that is called %q", r.Of).
				Becausef("it is neither a plan of drills nor a VM nor a recovery point of this region").Do("see `backstay drill plan list`, `backstay vm list` and `backstay point list`")
		}
		if err != nil {
			return plan, err
		}
		one.VM, one.UUID, one.PointID = p.VM.Name, p.VM.UUID, p.ID
	}
	plan = wished(r.DrillWish)
	if plan.From == "" && one.PointID != "" {
		plan.From = s.fromOf(ctx, one.PointID)
	}
	plan.VMs = []backstay.DrillVM{one}
	return plan, nil
}

// fromOf is what a point that was named can be drilled from: its vault, where it is in
// one.
func (s *server) fromOf(ctx context.Context, id backstay.PointID) backstay.DrillFrom {
	p, err := s.Catalog.Points.Point(ctx, id)
	if err == nil && !p.Has(backstay.VaultTier) && p.Has(backstay.SnapshotTier) {
		return backstay.FromSnapshot
	}
	return ""
}

// overridden is a plan with what was said for this run. What its VMs are probed for is
// the plan's own.
func overridden(plan backstay.DrillPlan, r api.StartDrillRequest) (backstay.DrillPlan, error) {
	if len(r.Probes) > 0 || r.Timeout != 0 {
		return plan, backstay.Errorf(backstay.CodeUsage, "the probes of a plan cannot be changed for one run").
			Becausef("each of its VMs has its own").Do("make another plan, or drill a VM of it alone")
	}
	w := wished(r.DrillWish)
	if w.Point != "" {
		plan.Point = w.Point
	}
	if w.From != "" {
		plan.From = w.From
	}
	if w.Host != "" {
		plan.Host = w.Host
	}
	if w.Pool != "" {
		plan.Pool = w.Pool
	}
	if w.Subnet != "" {
		plan.Subnet = w.Subnet
	}
	if w.MaxCPUs > 0 {
		plan.MaxCPUs = w.MaxCPUs
	}
	if w.MaxMemory > 0 {
		plan.MaxMemory = w.MaxMemory
	}
	return plan, nil
}
