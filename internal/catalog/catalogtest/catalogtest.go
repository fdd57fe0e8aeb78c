// Package catalogtest is the conformance suite of the catalogue: every adapter
// runs it, and each sentence of the port's comments has a test here. It tests
// nothing that only one adapter has, such as the mode of a file.
package catalogtest

import (
	"context"
	"encoding/json"
	"errors"
	"reflect"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// Open returns a new, empty catalogue that the suite closes.
type Open func(t *testing.T) *catalog.Catalog

// at is a fixed instant: the catalogue reads no clock.
var at = time.Date(2026, 3, 1, 2, 3, 4, 567_000, time.UTC)

// Run runs the suite.
func Run(t *testing.T, open Open) {
	for name, test := range map[string]func(*testing.T, *catalog.Catalog){
		"Hosts":                       hosts,
		"VMs":                         vms,
		"Vaults":                      vaults,
		"Policies":                    policies,
		"PolicyInUseStays":            policyInUse,
		"Items":                       items,
		"Groups":                      groups,
		"Points":                      points,
		"PointsOldestFirst":           pointsOrder,
		"ChangePointIsOneTransaction": changePoint,
		"AuditCounts":                 auditCounts,
		"AuditConcurrent":             auditConcurrent,
		"Tokens":                      tokens,
		"Trash":                       trash,
		"Health":                      health,
		"Replicas":                    replicas,
		"Drills":                      drills,
		"Held":                        held,
		"Units":                       units,
		"Regions":                     regions,
		"RegionsChangeTogether":       regionsTogether,
		"JobComesBack":                jobComesBack,
		"JobsNewestFirst":             jobsOrder,
		"ClaimLocks":                  claimLocks,
		"ClaimOfManyExactlyOneWins":   claimRace,
		"ClaimAfterLockRanOut":        claimExpired,
		"ClaimOfReleasedLock":         claimReleased,
		"ClaimOfEndedJob":             claimEnded,
		"ClaimOneJobForEachVM":        claimBusy,
		"FreeVMsAreFreeForGood":       claimFree,
		"FencedWritesFail":            fenced,
		"ExtendTellsOfCancel":         extend,
		"UpdateIsOneTransaction":      updateTransaction,
		"UpdateThatFailsWritesNone":   updateFails,
		"UpdateKeepsIDAndFence":       updateKeeps,
	} {
		t.Run(name, func(t *testing.T) {
			c := open(t)
			t.Cleanup(func() {
				if err := c.Close(); err != nil {
					t.Errorf("close: %v", err)
				}
			})
			test(t, c)
		})
	}
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// check is must for goroutines that are not the test's own.
func check(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Error(err)
	}
}

func wantErr(t *testing.T, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("error %v, want %v", err, want)
	}
}

// same compares as the catalogue promises to keep things: as their JSON says.
func same(t *testing.T, got, want any) {
	t.Helper()
	a, errA := json.Marshal(got)
	b, errB := json.Marshal(want)
	if errA != nil || errB != nil || !reflect.DeepEqual(a, b) {
		t.Errorf("got  %s\nwant %s (%v %v)", a, b, errA, errB)
	}
}

// gives checks what a read returned, and that it did not fail.
func gives[T any](t *testing.T, want T) func(T, error) {
	return func(got T, err error) {
		t.Helper()
		must(t, err)
		same(t, got, want)
	}
}

// absent checks that a read found nothing.
func absent[T any](t *testing.T) func(T, error) {
	return func(_ T, err error) {
		t.Helper()
		wantErr(t, err, catalog.ErrNotFound)
	}
}

func hosts(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	gives(t, []backstay.Host{})(c.Hosts.ListHosts(ctx))
	h1 := backstay.Host{Name: "h1", State: "connected", LastSeen: at, Facts: backstay.HostFacts{Networks: []string{"default"}}}
	h2 := backstay.Host{Name: "h2", State: "unreachable", Reason: "no route"}
	must(t, c.Hosts.PutHost(ctx, h2))
	must(t, c.Hosts.PutHost(ctx, backstay.Host{Name: "h1"}))
	must(t, c.Hosts.PutHost(ctx, h1))
	gives(t, h1)(c.Hosts.Host(ctx, "h1"))
	gives(t, []backstay.Host{h1, h2})(c.Hosts.ListHosts(ctx))
	must(t, c.VMs.ReplaceVMs(ctx, "h1", []backstay.VM{{ID: "a", Host: "h1"}}))
	must(t, c.Hosts.DeleteHost(ctx, "h1"))
	absent[backstay.Host](t)(c.Hosts.Host(ctx, "h1"))
	absent[backstay.VM](t)(c.VMs.VM(ctx, "a"))
	wantErr(t, c.Hosts.DeleteHost(ctx, "h1"), catalog.ErrNotFound)
}

func vms(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	a := backstay.VM{ID: "a", Name: "web01", Host: "h1", State: backstay.VMShutOff, Disks: []backstay.Disk{{Target: "vda", Size: 1 << 40}}}
	b := backstay.VM{ID: "b", Name: "db01", Host: "h1", State: backstay.VMRunning}
	moved := backstay.VM{ID: "a", Name: "web01", Host: "h2", State: backstay.VMRunning}
	must(t, c.VMs.ReplaceVMs(ctx, "h1", []backstay.VM{a, b}))
	gives(t, a)(c.VMs.VM(ctx, "a"))
	must(t, c.VMs.ReplaceVMs(ctx, "h2", []backstay.VM{moved}))
	gives(t, moved)(c.VMs.VM(ctx, "a"))
	gives(t, []backstay.VM{b, a, moved})(c.VMs.ListVMs(ctx))
	must(t, c.VMs.ReplaceVMs(ctx, "h1", nil))
	gives(t, []backstay.VM{moved})(c.VMs.ListVMs(ctx))
	absent[backstay.VM](t)(c.VMs.VM(ctx, "b"))
}

func vaults(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	v := backstay.Vault{Name: "main", ID: "uuid", Redundancy: backstay.LRS, Created: at, Units: []backstay.StorageUnit{{URL: "file:///a"}}}
	wantErr(t, c.Vaults.UpdateVault(ctx, v), catalog.ErrNotFound)
	must(t, c.Vaults.CreateVault(ctx, v))
	wantErr(t, c.Vaults.CreateVault(ctx, v), catalog.ErrExists)
	v.Copies, v.Checked = 3, &at
	must(t, c.Vaults.UpdateVault(ctx, v))
	gives(t, v)(c.Vaults.Vault(ctx, "main"))
	gives(t, []backstay.Vault{v})(c.Vaults.ListVaults(ctx))
	absent[backstay.Vault](t)(c.Vaults.Vault(ctx, "other"))
}

func policies(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	p := backstay.Policy{Name: "gold", Every: backstay.Duration(time.Hour), Vault: backstay.VaultKeep{Daily: 7}}
	wantErr(t, c.Policies.UpdatePolicy(ctx, p), catalog.ErrNotFound)
	must(t, c.Policies.CreatePolicy(ctx, p))
	wantErr(t, c.Policies.CreatePolicy(ctx, p), catalog.ErrExists)
	p.Snapshot.Days = 5
	must(t, c.Policies.UpdatePolicy(ctx, p))
	gives(t, p)(c.Policies.Policy(ctx, "gold"))
	gives(t, []backstay.Policy{p})(c.Policies.ListPolicies(ctx))
	must(t, c.Policies.DeletePolicy(ctx, "gold"))
	absent[backstay.Policy](t)(c.Policies.Policy(ctx, "gold"))
	wantErr(t, c.Policies.DeletePolicy(ctx, "gold"), catalog.ErrNotFound)
}

func protect(t *testing.T, c *catalog.Catalog) backstay.ProtectedItem {
	t.Helper()
	ctx := context.Background()
	must(t, c.Policies.CreatePolicy(ctx, backstay.Policy{Name: "gold"}))
	must(t, c.Vaults.CreateVault(ctx, backstay.Vault{Name: "main"}))
	item := backstay.ProtectedItem{VM: backstay.VMRef{Name: "web01", UUID: "a", Host: "h1"}, Policy: "gold", Vault: "main", Since: at}
	must(t, c.Items.PutItem(ctx, item))
	return item
}

func policyInUse(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	protect(t, c)
	wantErr(t, c.Policies.DeletePolicy(ctx, "gold"), catalog.ErrExists)
	must(t, c.Items.DeleteItem(ctx, "a"))
	must(t, c.Policies.DeletePolicy(ctx, "gold"))
}

func items(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	item := protect(t, c)
	item.LastPoint, item.Excluded = &at, []backstay.DiskTarget{"vdb"}
	must(t, c.Items.PutItem(ctx, item))
	gives(t, item)(c.Items.Item(ctx, "a"))
	gives(t, []backstay.ProtectedItem{item})(c.Items.ListItems(ctx))
	other := item
	other.Policy = "unknown"
	wantErr(t, c.Items.PutItem(ctx, other), catalog.ErrNotFound)
	other.Policy, other.Vault = "gold", "unknown"
	wantErr(t, c.Items.PutItem(ctx, other), catalog.ErrNotFound)
	gives(t, item)(c.Items.Item(ctx, "a"))
	later := at.Add(time.Hour)
	must(t, c.Items.ChangeItem(ctx, "a", func(i *backstay.ProtectedItem) error { i.LastPoint = &later; return nil }))
	item.LastPoint = &later
	gives(t, item)(c.Items.Item(ctx, "a"))
	must(t, c.Items.DeleteItem(ctx, "a"))
	wantErr(t, c.Items.DeleteItem(ctx, "a"), catalog.ErrNotFound)
	wantErr(t, c.Items.ChangeItem(ctx, "a", func(*backstay.ProtectedItem) error { return nil }), catalog.ErrNotFound)
	absent[backstay.ProtectedItem](t)(c.Items.Item(ctx, "a"))
}

func auditCounts(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	first := backstay.AuditEntry{Time: at, User: "ann", Role: backstay.Owner, Action: "POST /v1/vaults", Target: "main", Outcome: "ok"}
	second := backstay.AuditEntry{Seq: 77, Time: at, User: "bob", Action: "POST /v1/jobs", Outcome: "ok", Job: "j"}
	must(t, c.Audit.Append(ctx, first))
	must(t, c.Audit.Append(ctx, second))
	first.Seq, second.Seq = 1, 2
	gives(t, []backstay.AuditEntry{first, second})(c.Audit.ListAudit(ctx, 0, 10))
	gives(t, []backstay.AuditEntry{first})(c.Audit.ListAudit(ctx, 0, 1))
	gives(t, []backstay.AuditEntry{second})(c.Audit.ListAudit(ctx, 1, 10))
}

func auditConcurrent(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	const n = 40
	together(n, func(int) { check(t, c.Audit.Append(ctx, backstay.AuditEntry{Action: "x"})) })
	list, err := c.Audit.ListAudit(ctx, 0, 0)
	must(t, err)
	if len(list) != n || list[n-1].Seq != n {
		t.Errorf("%d entries, the last with number %d, want %d", len(list), list[len(list)-1].Seq, n)
	}
}

func tokens(t *testing.T, c *catalog.Catalog) {
	ctx := context.Background()
	tok := backstay.Token{ID: "t1", Name: "ci", Role: backstay.Operator, Created: at}
	must(t, c.Tokens.PutToken(ctx, tok, [32]byte{1}))
	gives(t, tok)(c.Tokens.TokenByHash(ctx, [32]byte{1}))
	absent[backstay.Token](t)(c.Tokens.TokenByHash(ctx, [32]byte{2}))
	wantErr(t, c.Tokens.PutToken(ctx, backstay.Token{ID: "t2"}, [32]byte{1}), catalog.ErrExists)
	gives(t, []backstay.Token{tok})(c.Tokens.ListTokens(ctx))
	must(t, c.Tokens.DeleteToken(ctx, "t1"))
	absent[backstay.Token](t)(c.Tokens.TokenByHash(ctx, [32]byte{1}))
	wantErr(t, c.Tokens.DeleteToken(ctx, "t1"), catalog.ErrNotFound)
}
