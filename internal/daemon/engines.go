package daemon

import (
	"context"
	"crypto/rand"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/backup"
	"github.com/backstay/backstay/internal/engine/drill"
	"github.com/backstay/backstay/internal/engine/expire"
	sessions "github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/engine/index"
	"github.com/backstay/backstay/internal/engine/rebuild"
	"github.com/backstay/backstay/internal/engine/reclaim"
	"github.com/backstay/backstay/internal/engine/redundancy"
	"github.com/backstay/backstay/internal/engine/replicate"
	"github.com/backstay/backstay/internal/engine/restore"
	"github.com/backstay/backstay/internal/engine/verify"
	"github.com/backstay/backstay/internal/job"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/server"
)

// engines has one of each engine, wired to the catalogue, the hosts and the
// vaults. It implements server.Planner.
type engines struct {
	region     *region
	backup     *backup.Runner
	restore    *restore.Runner
	expire     *expire.Runner
	verify     *verify.Runner
	vaults     *verify.VaultRunner
	rebuild    *rebuild.Runner
	reclaim    *reclaim.Runner
	redundancy *redundancy.Runner
	put        *sessions.Putter
	index      *index.Runner
	drill      *drill.Runner
}

func newEngines(r *region) *engines {
	e := &engines{
		region: r,
		backup: &backup.Runner{
			Catalog: r.catalog, Mover: r.hosts.mover, Vault: r.vaults.writing, Lost: r.vaults.lostMeanwhile, Saw: r.vaults.saw, Now: utcNow, Keys: r.keyPolicy,
			NewPoint: func() backstay.PointID { return backstay.PointID(ulid.Make().String()) },
		},
		restore: &restore.Runner{
			Catalog: r.catalog, Mover: r.hosts.mover, Vault: r.vaults.access, VaultProblem: r.vaults.problem, Damaged: r.readDamage, Now: utcNow, Services: r.keyServices, Keys: r.keyPolicy,
			NewUUID: func() backstay.VMID { return backstay.VMID(uuid.NewString()) }, NewMAC: newMAC,
			NewPoint: func() backstay.PointID { return backstay.PointID(ulid.Make().String()) },
		},
		expire: &expire.Runner{
			Catalog: r.catalog, Mover: r.hosts.mover, Now: utcNow, Floor: r.rooms.floor,
			Vault: func(ctx context.Context, name backstay.VaultName) (expire.Vault, error) {
				if _, replica := name.Origin(); replica {
					return heldDropping{keeper: r.held, name: name}, nil
				}
				v, err := r.vaults.openToWrite(ctx, name)
				return dropping{Vault: v, vaults: r.vaults, name: name}, err
			},
		},
		verify: &verify.Runner{Catalog: r.catalog, Mover: r.hosts.mover, Vault: r.vaults.access},
		put:    &sessions.Putter{Sessions: func() *sessions.Sessions { return r.files }, Mover: func(name backstay.HostName) (mover.Puts, error) { return r.hosts.mover(name) }},
		vaults: r.verifyVaults(), rebuild: r.rebuilder(), reclaim: r.reclaimer(), redundancy: r.redundancies(), index: r.indexer(),
	}
	e.drill = r.driller(e)
	return e
}

func utcNow() time.Time { return time.Now().UTC() }

// newMAC makes an address under QEMU's prefix, with 24 random bits.
func newMAC() string {
	var b [3]byte
	// crypto/rand.Read never fails on the systems that Go supports.
	_, _ = rand.Read(b[:])
	return fmt.Sprintf("52:54:00:%02x:%02x:%02x", b[0], b[1], b[2])
}

// queueOptions tell the queue what each kind of job runs.
func (e *engines) queueOptions(r *region) job.Options {
	host, _ := os.Hostname()
	observe := newObserver(r.catalog, r.log, r.metrics)
	changed := func(j backstay.Job) {
		observe.jobChanged(j)
		r.replication.jobChanged(j)
	}
	return job.Options{
		Catalog: r.catalog, Region: r.config.Region, Now: time.Now, Log: r.log,
		Owner: fmt.Sprintf("%s/%d", host, os.Getpid()), Exclusive: true,
		Limits:  job.Limits{PerHost: r.config.Jobs.PerHost, PerVault: r.config.Jobs.PerVault},
		OnStep:  r.daemon.Hooks.BeforeStep,
		OnState: changed,
		Weights: taskWeights,
		Runners: map[backstay.JobKind]job.Runner{
			backstay.JobBackup:     runner(e, e.runBackup),
			backstay.JobRestore:    runner(e, e.runRestore),
			backstay.JobUndo:       runner(e, e.runUndo),
			backstay.JobDeploy:     runner(e, e.runDeploy),
			backstay.JobExpire:     runner(e, e.expire.Run),
			backstay.JobVerify:     runner(e, e.runVerify),
			backstay.JobRepair:     runner(e, e.vaults.Repair),
			backstay.JobRebuild:    runner(e, e.runRebuild),
			backstay.JobReclaim:    runner(e, e.runReclaim),
			backstay.JobRedundancy: runner(e, e.redundancy.Run),
			backstay.JobPut:        runner(e, e.put.Run),
			backstay.JobIndex:      runner(e, e.runIndex),
			backstay.JobReplicate:  runner(e, r.replication.run),
			backstay.JobDrill:      runner(e, e.runDrill),
		},
		Tasks: map[backstay.JobKind][]string{
			backstay.JobBackup: backup.Tasks, backstay.JobDeploy: restore.DeployTasks,
			backstay.JobExpire: expire.Tasks, backstay.JobVerify: verify.Tasks,
			backstay.JobRepair: verify.RepairTasks, backstay.JobRebuild: rebuild.Tasks,
			backstay.JobRedundancy: redundancy.Tasks,
			backstay.JobReclaim:    reclaim.Tasks, backstay.JobPut: sessions.PutTasks, backstay.JobIndex: index.Tasks, backstay.JobReplicate: replicate.Tasks, backstay.JobDrill: drill.Tasks,
		},
	}
}

// taskWeights are how long the long tasks take, where the short ones take 1.
var taskWeights = map[string]int{"transfer": 20, "validate": 6, "stage": 12, "verify": 6, "copy": 30, "template": 4, "fill": 20, "wait": 4, "compare": 4, "restore": 20}

// runner decodes a job's parameters and keeps sweeps off its host while it runs.
func runner[P any](e *engines, run func(context.Context, backstay.Run, P) error) job.Runner {
	return func(ctx context.Context, jobRun backstay.Run) error {
		// A job that was cancelled while no server ran gets one more life, whose
		// context has ended already, in which to undo what it did.
		record, err := e.region.catalog.Jobs.Job(context.WithoutCancel(ctx), jobRun.Job().ID)
		if err != nil {
			return fmt.Errorf("read the job: %w", err)
		}
		var params P
		if err := json.Unmarshal(record.Params, &params); err != nil {
			return fmt.Errorf("read the job's parameters: %w", err)
		}
		defer e.region.hosts.enter(record.Host)()
		return run(ctx, jobRun, params)
	}
}

// runBackup runs a backup, which lets go of its VM before it ends.
func (e *engines) runBackup(ctx context.Context, run backstay.Run, params backstay.BackupParams) error {
	long, ok := run.(backstay.LongRun)
	if !ok {
		return fmt.Errorf("run a backup: %T cannot let go of a VM", run)
	}
	// One host is the job's own; a group may have VMs on others.
	for _, host := range e.groupHosts(context.WithoutCancel(ctx), params) {
		defer e.region.hosts.enter(host)()
	}
	return e.backup.Run(ctx, long, params)
}

// groupHosts are the hosts of the VMs of a group, each once.
func (e *engines) groupHosts(ctx context.Context, params backstay.BackupParams) []backstay.HostName {
	var hosts []backstay.HostName
	for _, id := range params.VMs {
		if vm, err := e.region.catalog.VMs.VM(ctx, id); err == nil && !slices.Contains(hosts, vm.Host) {
			hosts = append(hosts, vm.Host)
		}
	}
	return hosts
}

// runRestore runs a restore, and has the new VM in the catalogue when the job ends.
func (e *engines) runRestore(ctx context.Context, run backstay.Run, params backstay.RestoreParams) error {
	if from := params.Plan.StreamedFrom; from != "" {
		defer e.region.hosts.enter(from)() // no sweep there meanwhile
	}
	err := e.restore.Run(ctx, run, params)
	if refreshErr := e.region.hosts.refresh(context.WithoutCancel(ctx), params.Plan.Host); refreshErr != nil {
		// The host's own reports will bring it.
		e.region.log.Warn("look at the host after a restore", "host", params.Plan.Host, "error", refreshErr)
	}
	return err
}

// runUndo takes a restore back, and has the VM in the catalogue as it is then.
func (e *engines) runUndo(ctx context.Context, run backstay.Run, params backstay.UndoParams) error {
	err := e.restore.Undo(ctx, run, params)
	if refreshErr := e.region.hosts.refresh(context.WithoutCancel(ctx), params.Plan.Host); refreshErr != nil {
		e.region.log.Warn("look at the host after an undo", "host", params.Plan.Host, "error", refreshErr)
	}
	return err
}

// runDeploy runs a deploy, and has the new VM in the catalogue when the job ends.
func (e *engines) runDeploy(ctx context.Context, run backstay.Run, params backstay.DeployParams) error {
	err := e.restore.RunDeploy(ctx, run, params)
	if refreshErr := e.region.hosts.refresh(context.WithoutCancel(ctx), params.Plan.Host); refreshErr != nil {
		// The host's own reports will bring it.
		e.region.log.Warn("look at the host after a deploy", "host", params.Plan.Host, "error", refreshErr)
	}
	return err
}

// schedule queues what the policies demand until ctx ends.
func (e *engines) schedule(ctx context.Context) {
	job.NewScheduler(job.Schedule{
		Catalog: e.region.catalog, Backup: e.submitBackup, Expire: e.submitExpire, Log: e.region.log,
	}).Run(ctx)
}

// submitBackup queues a backup that is due: of the VM or, if it is in a group, of
// the whole group, since its points are of one instant.
func (e *engines) submitBackup(ctx context.Context, item backstay.ProtectedItem) error {
	r := job.Request{
		Kind: backstay.JobBackup, Target: target(item.VM), User: scheduler, Params: backstay.BackupParams{VM: item.VM.UUID},
		VMs: []backstay.VMID{item.VM.UUID}, Host: item.VM.Host, Vault: item.Vault, Alone: true,
	}
	g, err := e.region.catalog.Groups.GroupOf(ctx, item.VM.UUID)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("read the VM's group: %w", err)
	}
	if err == nil {
		r.VMs = nil
		for _, vm := range g.VMs {
			r.VMs = append(r.VMs, vm.UUID)
		}
		r.Target, r.Params = "group:"+string(g.Name), backstay.BackupParams{Group: g.Name, VMs: r.VMs}
	}
	_, err = e.region.queue.Submit(ctx, r)
	if backstay.IsCode(err, backstay.CodeConflict) {
		return nil // somebody takes a point of the VM, or of one of its group, already
	}
	return err
}

// submitExpire queues an expire job if it would drop anything.
func (e *engines) submitExpire(ctx context.Context, item backstay.ProtectedItem) error {
	due, err := e.expire.Due(ctx, item.VM.UUID)
	if err != nil || !due {
		return err
	}
	_, err = e.region.queue.Submit(ctx, job.Request{
		Kind: backstay.JobExpire, Target: target(item.VM), User: scheduler, Params: backstay.ExpireParams{VM: item.VM.UUID},
		VMs: []backstay.VMID{item.VM.UUID}, Host: item.VM.Host, Vault: item.Vault,
	})
	return err
}

// scheduler is the user of the jobs that nobody asked for by hand.
const scheduler = "schedule"

func target(vm backstay.VMRef) string { return string(vm.Host) + "/" + vm.Name }

// PlanRestore implements server.Planner.
func (e *engines) PlanRestore(ctx context.Context, r backstay.RestoreRequest) (backstay.RestorePlan, error) {
	return e.restore.Plan(ctx, r)
}

// PlanUndo implements server.Planner.
func (e *engines) PlanUndo(ctx context.Context, id backstay.JobID, r backstay.UndoRequest) (backstay.UndoPlan, backstay.UndoParams, error) {
	return e.restore.PlanUndo(ctx, id, r)
}

// PlanDeploy implements server.Planner.
func (e *engines) PlanDeploy(ctx context.Context, r backstay.DeployRequest) (backstay.RestorePlan, []backstay.Parameter, error) {
	return e.restore.PlanDeploy(ctx, r)
}

// SimulatePolicy implements server.Planner.
func (e *engines) SimulatePolicy(p backstay.Policy, days int) (backstay.PolicySimulation, error) {
	return expire.Simulate(p, days, utcNow())
}

// PlanBackup implements server.Planner.
func (e *engines) PlanBackup(ctx context.Context, id backstay.VMID) (api.BackupPlan, error) {
	vm, err := e.region.catalog.VMs.VM(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return api.BackupPlan{}, backstay.Errorf(backstay.CodeUnknownVM, "no host has the VM %s", id).
			Becausef("it was deleted, or has moved to a host that this region does not know")
	} else if err != nil {
		return api.BackupPlan{}, fmt.Errorf("read VM %s: %w", id, err)
	}
	item, err := e.region.catalog.Items.Item(ctx, id)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return api.BackupPlan{}, fmt.Errorf("read the protected item: %w", err)
	}
	plan, err := backup.NewPlan(vm, backup.Wish{Item: item})
	if err != nil {
		return api.BackupPlan{}, err
	}
	points, err := e.region.catalog.Points.ListPoints(ctx, id)
	if err != nil {
		return api.BackupPlan{}, fmt.Errorf("list points: %w", err)
	}
	answer := api.BackupPlan{VM: plan.VM, Consistency: plan.Consistency, ConsistencyReason: plan.Reason, Notes: plan.Warnings}
	for _, d := range plan.Disks {
		disk := api.BackupDisk{Target: d.Target, Included: d.Included, Excluded: d.Excluded, Reason: d.Reason}
		if d.Included {
			disk.Mode = mode(points, item, d)
		}
		answer.Disks = append(answer.Disks, disk)
	}
	return answer, nil
}

// mode says how a transfer will find what changed, as far as the catalogue can
// tell; the transfer itself trusts only what it can prove (I7).
func mode(points []backstay.RecoveryPoint, item backstay.ProtectedItem, d backup.PlannedDisk) string {
	for _, p := range slices.Backward(points) {
		if p.Vault != item.Vault || !p.Has(backstay.VaultTier) {
			continue
		}
		i := slices.IndexFunc(p.Disks, func(o backstay.PointDisk) bool { return o.Target == d.Target && o.Included })
		switch {
		case i < 0:
			return "full compare: the newest point in the vault does not have the disk"
		case p.Disks[i].Size != d.Size:
			return "full compare: the size of the disk changed since the newest point in the vault"
		case item.Method == backstay.MethodPull:
			return "pull: what the dirty bitmap names, or a full compare if there is none"
		case p.Has(backstay.SnapshotTier):
			return "changed layers"
		}
		return "changed layers if their map was kept, else full compare: the newest point in the vault has left the snapshot tier"
	}
	return "first copy"
}

// queueAdapter shows the queue as the server wants to see it.
type queueAdapter struct{ *job.Queue }

// Submit implements server.JobQueue.
func (q queueAdapter) Submit(ctx context.Context, r server.JobRequest) (backstay.Job, error) {
	return q.Queue.Submit(ctx, job.Request(r))
}
