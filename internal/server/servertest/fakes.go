package servertest

import (
	"context"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
)

// RecoveryKey is what every new vault's recovery key is.
const RecoveryKey = "AGE-SECRET-KEY-1TESTTESTTEST"

// vaults makes vaults that are rows of the catalogue and nothing else.
type vaults struct{ catalog *catalog.Catalog }

func (v vaults) CreateVault(ctx context.Context, r api.CreateVaultRequest) (backstay.Vault, string, error) {
	var units []string
	var copies []backstay.StorageUnit
	for _, u := range r.Units {
		units, copies = append(units, u.URL), append(copies, backstay.StorageUnit{URL: u.URL, Zone: u.Zone, Redundant: u.Redundant})
	}
	if err := backstay.FitUnits(r.Redundancy, copies); err != nil {
		return backstay.Vault{}, "", err
	}
	vault, key := newVault(r.Name, units...), RecoveryKey
	if r.NoRecoveryKey {
		key = ""
		if len(r.Recipients) == 0 && !r.Force {
			return vault, "", backstay.Errorf(backstay.CodeNoRecovery, "the vault would have no recovery recipient").
				Becausef("every recovery point in the vault is lost with the server")
		}
	}
	return vault, key, v.catalog.Vaults.CreateVault(ctx, vault)
}

func (v vaults) ImportVault(ctx context.Context, r api.ImportVaultRequest) (backstay.Vault, error) {
	if r.Key != RecoveryKey && r.Passphrase != Passphrase {
		return backstay.Vault{}, backstay.Errorf(backstay.CodeVaultKey, "the identity cannot open the vault")
	}
	var units []string
	for _, u := range r.Units {
		units = append(units, u.URL)
	}
	vault := newVault(r.Name, units...)
	return vault, v.catalog.Vaults.CreateVault(ctx, vault)
}

func (v vaults) VaultUsage(ctx context.Context, name backstay.VaultName) (backstay.VaultUsage, error) {
	return backstay.VaultUsage{Vault: name, Points: 3, Objects: 12, StoredBytes: 21 << 20, LogicalBytes: 60 * gib}, nil
}

func (v vaults) CheckVault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	vault, err := v.catalog.Vaults.Vault(ctx, name)
	now := Now
	vault.Checked = &now
	return vault, err
}

func (v vaults) KeepReplica(ctx context.Context, name backstay.VaultName, keep backstay.ReplicaKeep) (backstay.Vault, error) {
	vault, err := v.catalog.Vaults.Vault(ctx, name)
	if err != nil {
		return vault, err
	}
	vault.Keep = &keep
	return vault, v.catalog.Vaults.UpdateVault(ctx, vault)
}

// units are rows of the catalogue and nothing else.
type units struct{ catalog *catalog.Catalog }

func (u units) AddUnit(ctx context.Context, n api.NewUnit) (backstay.Unit, error) {
	added := backstay.Unit{URL: n.URL, Zone: n.Zone, Redundant: n.Redundant, Added: Now, State: "ok", Available: -1, Vaults: []backstay.VaultName{}}
	return added, u.catalog.Units.CreateUnit(ctx, added)
}

func (u units) CheckUnit(ctx context.Context, url string) (backstay.Unit, error) {
	known, err := u.catalog.Units.Unit(ctx, url)
	if err != nil {
		return known, backstay.Errorf(backstay.CodeUnknownUnit, "the region has no such storage unit").Becausef("nobody added it")
	}
	known.Vaults = []backstay.VaultName{}
	return known, nil
}

func (u units) ListUnits(ctx context.Context) ([]backstay.Unit, error) {
	all, err := u.catalog.Units.ListUnits(ctx)
	for i := range all {
		all[i].Vaults = []backstay.VaultName{}
	}
	return all, err
}

func (u units) SetRedundancy(ctx context.Context, name backstay.VaultName, r backstay.Redundancy, _ []api.NewUnit) (backstay.Vault, error) {
	vault, err := u.catalog.Vaults.Vault(ctx, name)
	if err != nil {
		return vault, err
	}
	if vault.Wish = r; r == vault.Redundancy {
		vault.Wish = ""
	}
	return vault, u.catalog.Vaults.UpdateVault(ctx, vault)
}

func (u units) DrainUnit(ctx context.Context, url string, _ []api.NewUnit) (backstay.Unit, error) {
	err := u.catalog.Units.ChangeUnit(ctx, url, func(now *backstay.Unit) error {
		now.Closed = true
		return nil
	})
	if err != nil {
		return backstay.Unit{}, err
	}
	return u.CheckUnit(ctx, url)
}

func (u units) RemoveUnit(ctx context.Context, url string) error {
	return u.catalog.Units.DeleteUnit(ctx, url)
}

// planner plans without a host: a name that is taken is the one thing that its
// pre-flight list refuses.
type planner struct{ catalog *catalog.Catalog }

// PlanReclaim finds one pack that nobody needs, one in the trash that a restore
// may still read, and one that is needed in part.
func (p planner) PlanReclaim(_ context.Context, params backstay.ReclaimParams) (backstay.ReclaimPlan, error) {
	const mib = 1 << 20
	delay := time.Duration(backstay.DefaultTrash)
	if params.Trash != nil {
		delay = time.Duration(*params.Trash)
	}
	plan := backstay.ReclaimPlan{Vault: params.Vault, At: Now, Points: 3, Packs: backstay.ObjectSum{Objects: 9, Bytes: 140 * mib}, Live: 100 * mib,
		Condemn: backstay.ObjectSum{Objects: 1, Bytes: 16 * mib}, Records: 128, Later: 39 * mib,
		Repack: []backstay.PackToMove{{Pack: "3f2a00000000000000000000000000c1", Bytes: 10 * mib, Live: 3 * mib, Reason: "30 % of it is needed"}},
		Trash: []backstay.CondemnedPacks{{List: "01K9ZQ4T5V0000000000000000", Packs: backstay.ObjectSum{Objects: 1, Bytes: 16 * mib},
			Since: Now.Add(-delay), Due: Now, Waits: []backstay.Lease{{Job: "01K9ZQ4T5V0000000000000001", Kind: backstay.JobRestore, Target: "local/web01"}}}},
	}
	if params.NoRepack {
		plan.Repack, plan.Later = []backstay.PackToMove{}, 32*mib
	}
	return plan, nil
}

// SimulatePolicy keeps one point in both tiers.
func (p planner) SimulatePolicy(policy backstay.Policy, days int) (backstay.PolicySimulation, error) {
	return backstay.PolicySimulation{
		Policy: policy, Days: days, Until: Now, Taken: days, Deepest: 3, DeepestAt: Now.Add(-48 * time.Hour), Bound: policy.Snapshot.MaxPoints(), MostInVault: 1,
		Points: []backstay.SimulatedPoint{
			{Time: Now.Add(-72 * time.Hour), Vault: "weekly 2026-W47"}, {Time: Now, Snapshot: "the newest one", Vault: "the newest one"},
		},
		Notes: []string{},
	}, nil
}

func (p planner) PlanImage(_ context.Context, image backstay.ImageBackup) (api.BackupPlan, backstay.ImageBackup, error) {
	plan := api.BackupPlan{
		VM: backstay.VMRef{UUID: "88888888-8888-5888-8888-888888888888", Host: image.Host, Name: image.Name}, Consistency: backstay.CrashConsistent,
	}
	for _, d := range image.Disks {
		plan.Disks = append(plan.Disks, api.BackupDisk{Target: d.Target, Included: true, Mode: "first copy"})
	}
	return plan, image, nil
}

func (p planner) PlanBackup(ctx context.Context, id backstay.VMID) (api.BackupPlan, error) {
	vm, err := p.catalog.VMs.VM(ctx, id)
	if err != nil {
		return api.BackupPlan{}, err
	}
	item, err := p.catalog.Items.Item(ctx, id)
	if err != nil {
		return api.BackupPlan{}, err
	}
	plan := api.BackupPlan{VM: vm.Ref(), Consistency: backstay.FileSystemConsistent, ConsistencyReason: "the guest agent is connected"}
	for _, d := range vm.Disks {
		if d.Device != "disk" {
			continue
		}
		v := item.Judge(d)
		plan.Disks = append(plan.Disks, api.BackupDisk{Target: d.Target, Included: v.Included, Excluded: v.Excluded, Reason: v.Reason, Mode: "changed layers"})
	}
	return plan, nil
}

// PlanDeploy knows one folder, with two parameters: a name and a disk.
func (p planner) PlanDeploy(_ context.Context, r backstay.DeployRequest) (backstay.RestorePlan, []backstay.Parameter, error) {
	if r.Folder != "/srv/restored" {
		return backstay.RestorePlan{}, nil, backstay.Errorf(backstay.CodeNoTemplate, "no VM can be made of what is in %s", r.Folder).Becausef("there is no manifest")
	}
	values := map[string]string{"name": "web01", "disk.vda.path": r.Folder + "/vda.qcow2"}
	for key, value := range r.Set {
		if values[key] == "" || value == "" {
			return backstay.RestorePlan{}, nil, backstay.Errorf(backstay.CodeUsage, "the parameter %s has no valid value", key).Becausef("%q is none", value)
		}
		values[key] = value
	}
	name := values["name"]
	plan := backstay.RestorePlan{
		Kind: backstay.DeployPlan, Point: "01K9ZQ4T5V0000000000000001", Host: "local", Source: backstay.VMRef{Name: "web01", Host: "local"}, Name: name,
		UUID: "99999999-9999-4999-8999-999999999999", Folder: r.Folder, Start: !r.NoStart, Probe: r.Probe, Tasks: []string{"plan", "switch", "start"},
		Disks:       []backstay.PlannedDisk{{Target: "vda", Path: values["disk.vda.path"], Format: "qcow2", Action: backstay.DiskKept}},
		Differences: []backstay.Difference{{Path: "/domain/name", From: "web01", To: name}},
		Preflight:   []backstay.Check{{Name: "name", OK: true, Detail: "no VM has it"}},
	}
	return plan, []backstay.Parameter{
		{Name: "name", Type: backstay.TypeString, Value: name, Default: "web01", Description: "name of the VM"},
		{Name: "disk.vda.path", Type: backstay.TypePath, Value: values["disk.vda.path"], Default: r.Folder + "/vda.qcow2", Description: "the restored disk vda"},
	}, nil
}

func (p planner) PlanRestore(ctx context.Context, r backstay.RestoreRequest) (backstay.RestorePlan, error) {
	point, err := p.catalog.Points.Point(ctx, r.Point)
	if err != nil {
		return backstay.RestorePlan{}, err
	}
	vms, err := p.catalog.VMs.ListVMs(ctx)
	if err != nil {
		return backstay.RestorePlan{}, err
	}
	plan := backstay.RestorePlan{
		Kind: r.Kind, Point: point.ID, Tier: r.Tier, Vault: point.Vault, Host: point.VM.Host, Source: point.VM, Name: r.Name,
		UUID: "99999999-9999-4999-8999-999999999999", Firmware: point.Firmware, Start: !r.NoStart, Probe: r.Probe, Bytes: 20 * gib,
		Disks: []backstay.PlannedDisk{{Target: "vda", Path: "/var/lib/libvirt/images/" + r.Name + "-vda.qcow2", Format: "qcow2", Size: 10 * gib}},
		NICs:  []backstay.PlannedNIC{{MAC: "52:54:00:12:34:56", Kind: "network", Network: "default", LinkDown: r.Isolated}},
	}
	if strings.HasPrefix(r.To, "/dev/") {
		plan.Disks[0].Path, plan.Disks[0].Device = r.To, true
	}
	if plan.Tier == "" {
		plan.Tier = backstay.SnapshotTier
		if !point.Has(plan.Tier) {
			plan.Tier = backstay.VaultTier
		}
	}
	free := !slices.ContainsFunc(vms, func(vm backstay.VM) bool { return vm.Host == plan.Host && vm.Name == r.Name })
	detail := "no VM has it"
	if !free {
		detail = "a VM on " + string(plan.Host) + " is called " + r.Name + " already"
	}
	name := backstay.Check{Name: "name", OK: free, Detail: detail}
	if !free {
		name.Code, name.Action = backstay.CodeNameTaken, "choose another --name"
	}
	plan.Preflight = []backstay.Check{name, {Name: "room", OK: true, Detail: "20 GiB needed, 100 GiB there"}}
	return plan, nil
}

func (p planner) PlanUndo(ctx context.Context, id backstay.JobID, r backstay.UndoRequest) (backstay.UndoPlan, backstay.UndoParams, error) {
	record, err := p.catalog.Jobs.Job(ctx, id)
	if err != nil {
		return backstay.UndoPlan{}, backstay.UndoParams{}, err
	}
	if record.Kind != backstay.JobRestore {
		return backstay.UndoPlan{}, backstay.UndoParams{}, backstay.Errorf(backstay.CodeCannotUndo, "the job %s cannot be taken back", id).Becausef("it is no restore")
	}
	plan := backstay.UndoPlan{Job: id, Kind: backstay.CreateVM, VM: backstay.VMRef{Name: "web01", UUID: "99999999-9999-4999-8999-999999999999", Host: "east"}, Effects: []string{"end the VM"}, Tasks: []string{"plan", "remove"}}
	return plan, backstay.UndoParams{Job: id, Stop: r.Stop, Start: r.Start}, nil
}
