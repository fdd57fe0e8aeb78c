package client

import (
	"context"
	"fmt"
	"net/http"
	"net/url"
	"strconv"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// Health returns nil if the server is there and its catalogue answers.
func (c *Client) Health(ctx context.Context) error {
	return c.do(ctx, http.MethodGet, api.PathHealth, nil, nil)
}

// WhoAmI says whose the token is, and which region answers.
func (c *Client) WhoAmI(ctx context.Context) (api.Identity, error) {
	return get[api.Identity](ctx, c, api.PathWhoAmI)
}

// Hosts lists all hosts.
func (c *Client) Hosts(ctx context.Context) ([]backstay.Host, error) {
	return get[[]backstay.Host](ctx, c, api.PathHosts)
}

// Host returns one host.
func (c *Client) Host(ctx context.Context, name backstay.HostName) (backstay.Host, error) {
	return get[backstay.Host](ctx, c, api.Path(api.PathHost, string(name)))
}

// Rooms tells the room that layers take on a host.
func (c *Client) Rooms(ctx context.Context, host backstay.HostName) ([]backstay.Room, error) {
	return get[[]backstay.Room](ctx, c, api.Path(api.PathHostRooms, string(host)))
}

// VMs lists all VMs, protected or not.
func (c *Client) VMs(ctx context.Context) ([]api.VMDetail, error) {
	return get[[]api.VMDetail](ctx, c, api.PathVMs)
}

// VM returns one VM: a UUID, NAME or HOST/NAME.
func (c *Client) VM(ctx context.Context, vm string) (api.VMDetail, error) {
	return get[api.VMDetail](ctx, c, api.Path(api.PathVM, vm))
}

// Protect puts a VM under a policy, in a vault.
func (c *Client) Protect(ctx context.Context, vm string, r api.ProtectRequest) (api.ProtectResponse, error) {
	var out api.ProtectResponse
	err := c.do(ctx, http.MethodPut, api.Path(api.PathProtection, vm), r, &out)
	return out, err
}

// UnprotectOptions say what else goes when a protection ends.
type UnprotectOptions struct {
	DeleteData         bool // all points
	DropSnapshotPoints bool // the points that are in no vault
}

// Unprotect ends a VM's protection. Its points in vaults stay, unless the options
// say that they go; the answer has the jobs that delete them, and the one that
// puts the VM back on its own files.
func (c *Client) Unprotect(ctx context.Context, vm string, o UnprotectOptions) (api.UnprotectResponse, error) {
	path := fmt.Sprintf("%s?deleteData=%t&dropSnapshotPoints=%t", api.Path(api.PathProtection, vm), o.DeleteData, o.DropSnapshotPoints)
	var out api.UnprotectResponse
	err := c.do(ctx, http.MethodDelete, path, nil, &out)
	return out, err
}

// Items lists all protected items.
func (c *Client) Items(ctx context.Context) ([]backstay.ProtectedItem, error) {
	return get[[]backstay.ProtectedItem](ctx, c, api.PathItems)
}

// Groups lists all groups of VMs.
func (c *Client) Groups(ctx context.Context) ([]backstay.Group, error) {
	return get[[]backstay.Group](ctx, c, api.PathGroups)
}

// Group returns one group.
func (c *Client) Group(ctx context.Context, name backstay.GroupName) (backstay.Group, error) {
	return get[backstay.Group](ctx, c, api.Path(api.PathGroup, string(name)))
}

// CreateGroup makes a group of protected VMs.
func (c *Client) CreateGroup(ctx context.Context, r api.CreateGroupRequest) (backstay.Group, error) {
	return post[backstay.Group](ctx, c, api.PathGroups, r)
}

// DeleteGroup forgets a group; its VMs stay protected.
func (c *Client) DeleteGroup(ctx context.Context, name backstay.GroupName) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathGroup, string(name)), nil, nil)
}

// Vaults lists all vaults, as last checked.
func (c *Client) Vaults(ctx context.Context) ([]backstay.Vault, error) {
	return get[[]backstay.Vault](ctx, c, api.PathVaults)
}

// Vault returns one vault, checked now.
func (c *Client) Vault(ctx context.Context, name backstay.VaultName) (backstay.Vault, error) {
	return get[backstay.Vault](ctx, c, api.Path(api.PathVault, string(name)))
}

// VaultUsage says what a vault holds.
func (c *Client) VaultUsage(ctx context.Context, name backstay.VaultName) (backstay.VaultUsage, error) {
	return get[backstay.VaultUsage](ctx, c, api.Path(api.PathVaultUsage, string(name)))
}

// CreateVault makes a vault. The answer has its recovery key, this once.
func (c *Client) CreateVault(ctx context.Context, r api.CreateVaultRequest) (api.CreateVaultResponse, error) {
	return post[api.CreateVaultResponse](ctx, c, api.PathVaults, r)
}

// ImportVault takes in a vault that exists on its storage units. The answer has
// the job that fills the catalogue from it.
func (c *Client) ImportVault(ctx context.Context, r api.ImportVaultRequest) (api.ImportVaultResponse, error) {
	return post[api.ImportVaultResponse](ctx, c, api.PathVaultImport, r)
}

// SetVaultKeep sets how long the region keeps the points of a replica.
func (c *Client) SetVaultKeep(ctx context.Context, name backstay.VaultName, r api.SetVaultKeepRequest) (backstay.Vault, error) {
	var out backstay.Vault
	err := c.do(ctx, http.MethodPut, api.Path(api.PathVaultKeep, string(name)), r, &out)
	return out, err
}

// VerifyVault starts a job that reads and proves a vault in every copy: all of
// it, or the points that were never verified.
func (c *Client) VerifyVault(ctx context.Context, name backstay.VaultName, r api.VerifyVaultRequest) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathVaultVerify, string(name)), r)
}

// RepairVault starts a job that mends what verifying the vault found.
func (c *Client) RepairVault(ctx context.Context, name backstay.VaultName) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathVaultRepair, string(name)), nil)
}

// ReclaimVault starts a job that gives back what no point of the vault needs, or
// plans it with DryRun.
func (c *Client) ReclaimVault(ctx context.Context, name backstay.VaultName, r api.ReclaimRequest) (api.ReclaimResponse, error) {
	return post[api.ReclaimResponse](ctx, c, api.Path(api.PathVaultReclaim, string(name)), r)
}

// RebuildCatalogue starts a job that makes the catalogue agree with a vault.
func (c *Client) RebuildCatalogue(ctx context.Context, name backstay.VaultName) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathVaultRebuild, string(name)), nil)
}

// Policies lists all policies.
func (c *Client) Policies(ctx context.Context) ([]backstay.Policy, error) {
	return get[[]backstay.Policy](ctx, c, api.PathPolicies)
}

// Policy returns one policy.
func (c *Client) Policy(ctx context.Context, name backstay.PolicyName) (backstay.Policy, error) {
	return get[backstay.Policy](ctx, c, api.Path(api.PathPolicy, string(name)))
}

// CreatePolicy makes a policy.
func (c *Client) CreatePolicy(ctx context.Context, p backstay.Policy) (backstay.Policy, error) {
	return post[backstay.Policy](ctx, c, api.PathPolicies, p)
}

// EditPolicy replaces a policy, for old and new points alike.
func (c *Client) EditPolicy(ctx context.Context, p backstay.Policy) (backstay.Policy, error) {
	var out backstay.Policy
	err := c.do(ctx, http.MethodPut, api.Path(api.PathPolicy, string(p.Name)), p, &out)
	return out, err
}

// SimulatePolicy tells what a policy would keep, had it been at work for so many
// days.
func (c *Client) SimulatePolicy(ctx context.Context, name backstay.PolicyName, days int) (backstay.PolicySimulation, error) {
	return get[backstay.PolicySimulation](ctx, c, api.Path(api.PathPolicySimulation, string(name))+"?days="+strconv.Itoa(days))
}

// DeletePolicy deletes a policy that no item uses.
func (c *Client) DeletePolicy(ctx context.Context, name backstay.PolicyName) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathPolicy, string(name)), nil, nil)
}

// StartBackup starts a backup, or plans it.
func (c *Client) StartBackup(ctx context.Context, r api.BackupRequest) (api.BackupResponse, error) {
	return post[api.BackupResponse](ctx, c, api.PathBackups, r)
}

// Points lists the recovery points of a VM, or of all if vm is empty, newest
// first.
func (c *Client) Points(ctx context.Context, vm string) ([]backstay.RecoveryPoint, error) {
	path := api.PathPoints
	if vm != "" {
		path += "?vm=" + url.QueryEscape(vm)
	}
	return get[[]backstay.RecoveryPoint](ctx, c, path)
}

// Point returns one point: an id, the unique beginning of one, VM@latest, or
// VM@TIME.
func (c *Client) Point(ctx context.Context, point string) (backstay.RecoveryPoint, error) {
	return get[backstay.RecoveryPoint](ctx, c, api.Path(api.PathPoint, point))
}

// PointRestores says which restores a point allows on a host; an empty host means
// the point's own.
func (c *Client) PointRestores(ctx context.Context, point string, on backstay.HostName) (backstay.PossibleRestores, error) {
	path := api.Path(api.PathPointRestores, point)
	if on != "" {
		path += "?host=" + url.QueryEscape(string(on))
	}
	return get[backstay.PossibleRestores](ctx, c, path)
}

// PointSecrets tells of the secrets that a restore of a point on a host needs; an
// empty host means the point's own, an empty tier the one that a restore chooses.
func (c *Client) PointSecrets(ctx context.Context, point string, on backstay.HostName, tier backstay.Tier) (api.PointSecrets, error) {
	query := url.Values{}
	if on != "" {
		query.Set("host", string(on))
	}
	if tier != "" {
		query.Set("tier", string(tier))
	}
	path := api.Path(api.PathPointSecrets, point)
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return get[api.PointSecrets](ctx, c, path)
}

// GiveSecrets makes secrets that a point needs and a host lacks.
func (c *Client) GiveSecrets(ctx context.Context, point string, r api.GiveSecretsRequest) error {
	return c.do(ctx, http.MethodPost, api.Path(api.PathPointSecrets, point), r, nil)
}

// VerifyPoint starts a job that reads the whole point; an empty tier means the
// vault if the point is there.
func (c *Client) VerifyPoint(ctx context.Context, point string, tier backstay.Tier) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathPointVerify, point), api.VerifyRequest{Tier: tier})
}

// PinPoint keeps a point until it is unpinned; UnpinPoint lets it go again.
func (c *Client) PinPoint(ctx context.Context, point string) (backstay.RecoveryPoint, error) {
	var p backstay.RecoveryPoint
	err := c.do(ctx, http.MethodPut, api.Path(api.PathPointPin, point), nil, &p)
	return p, err
}

// UnpinPoint lets a point go by its policy again.
func (c *Client) UnpinPoint(ctx context.Context, point string) (backstay.RecoveryPoint, error) {
	var p backstay.RecoveryPoint
	err := c.do(ctx, http.MethodDelete, api.Path(api.PathPointPin, point), nil, &p)
	return p, err
}

// DeletePoint starts a job that deletes a point from all its tiers.
func (c *Client) DeletePoint(ctx context.Context, point string) (backstay.Job, error) {
	var job backstay.Job
	err := c.do(ctx, http.MethodDelete, api.Path(api.PathPoint, point), nil, &job)
	return job, err
}

// StartRestore starts a restore as a new VM, or plans it with DryRun. The
// request's point may be anything that Point takes.
func (c *Client) StartRestore(ctx context.Context, r backstay.RestoreRequest) (api.RestoreResponse, error) {
	return post[api.RestoreResponse](ctx, c, api.PathRestores, api.RestoreRequest{RestoreRequest: r})
}

// Jobs lists up to limit jobs (0: the server's default), newest first: those
// in the given states, or all.
func (c *Client) Jobs(ctx context.Context, limit int, states ...backstay.JobState) ([]backstay.Job, error) {
	query := url.Values{}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	list := ""
	for i, s := range states {
		if i > 0 {
			list += ","
		}
		list += string(s)
	}
	if list != "" {
		query.Set("state", list)
	}
	path := api.PathJobs
	if len(query) > 0 {
		path += "?" + query.Encode()
	}
	return get[[]backstay.Job](ctx, c, path)
}

// FinishRestore lets the rest of a live restore be copied as fast as it can be,
// and returns its job.
func (c *Client) FinishRestore(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathRestoreFinish, string(id)), nil)
}

// AbandonRestore throws away the VM of a live restore that is not complete, with
// all that its guest wrote. The job, which is returned, ends when that is done.
func (c *Client) AbandonRestore(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathRestoreAbandon, string(id)), nil)
}

// Job returns one job.
func (c *Client) Job(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return get[backstay.Job](ctx, c, api.Path(api.PathJob, string(id)))
}

// CancelJob cancels a job; it undoes what it did and ends by itself.
func (c *Client) CancelJob(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathJobCancel, string(id)), nil)
}

// RetryJob queues a job that ended anew, and returns the new job.
func (c *Client) RetryJob(ctx context.Context, id backstay.JobID) (backstay.Job, error) {
	return post[backstay.Job](ctx, c, api.Path(api.PathJobRetry, string(id)), nil)
}

// UndoRestore takes a restore back, or plans that.
func (c *Client) UndoRestore(ctx context.Context, id backstay.JobID, r backstay.UndoRequest) (api.UndoResponse, error) {
	return post[api.UndoResponse](ctx, c, api.Path(api.PathJobUndo, string(id)), api.UndoRequest{UndoRequest: r})
}

// Audit lists up to limit entries (at most 1000) with a greater Seq than after,
// oldest first.
func (c *Client) Audit(ctx context.Context, after int64, limit int) ([]backstay.AuditEntry, error) {
	query := url.Values{"after": {strconv.FormatInt(after, 10)}}
	if limit > 0 {
		query.Set("limit", strconv.Itoa(limit))
	}
	return get[[]backstay.AuditEntry](ctx, c, api.PathAudit+"?"+query.Encode())
}

// Tokens lists all tokens.
func (c *Client) Tokens(ctx context.Context) ([]backstay.Token, error) {
	return get[[]backstay.Token](ctx, c, api.PathTokens)
}

// CreateToken makes a token. The answer has its secret, this once.
func (c *Client) CreateToken(ctx context.Context, r api.CreateTokenRequest) (api.CreateTokenResponse, error) {
	return post[api.CreateTokenResponse](ctx, c, api.PathTokens, r)
}

// DeleteToken deletes a token by its id or name.
func (c *Client) DeleteToken(ctx context.Context, token string) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathToken, token), nil, nil)
}

// Regions lists the regions with which the server's own is paired.
func (c *Client) Regions(ctx context.Context) ([]backstay.Region, error) {
	return get[[]backstay.Region](ctx, c, api.PathRegions)
}

// Region returns one paired region.
func (c *Client) Region(ctx context.Context, name backstay.RegionName) (backstay.Region, error) {
	return get[backstay.Region](ctx, c, api.Path(api.PathRegion, string(name)))
}

// NewPairingToken makes a token by which another region's server can be paired.
func (c *Client) NewPairingToken(ctx context.Context, r api.PairingTokenRequest) (api.PairingToken, error) {
	var out api.PairingToken
	err := c.do(ctx, http.MethodPost, api.PathPairingTokens, r, &out)
	return out, err
}

// PairRegion pairs the server with the one that made the token.
func (c *Client) PairRegion(ctx context.Context, r api.PairRequest) (backstay.Region, error) {
	var out backstay.Region
	err := c.do(ctx, http.MethodPost, api.PathPairings, r, &out)
	return out, err
}

// RemoveRegion ends the pairing with a region on the server's side.
func (c *Client) RemoveRegion(ctx context.Context, name backstay.RegionName) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathRegion, string(name)), nil, nil)
}
