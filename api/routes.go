package api

import (
	"net/url"
	"strings"
)

// The paths of the API. A part in braces is filled in by Path.
//
//   - {vm} is a UUID, a NAME, or HOST/NAME.
//   - {point} is an id, the beginning of one that is unique, VM@latest, or
//     VM@TIME: the newest at or before an RFC 3339 time.
const (
	PathHealth  = "/healthz"
	PathMetrics = "/metrics"
	PathOpenAPI = "/openapi.json"

	PathWhoAmI = "/v1/whoami"
	PathHosts  = "/v1/hosts"
	PathHost   = "/v1/hosts/{host}"
	// PathHostRooms is the room beside the disks of a host's VMs.
	PathHostRooms = "/v1/hosts/{host}/rooms"

	PathVMs        = "/v1/vms"
	PathVM         = "/v1/vms/{vm}"
	PathProtection = "/v1/vms/{vm}/protection"
	PathItems      = "/v1/items"

	PathGroups = "/v1/groups"
	PathGroup  = "/v1/groups/{group}"

	PathVaults     = "/v1/vaults"
	PathVault      = "/v1/vaults/{vault}"
	PathVaultUsage = "/v1/vaults/{vault}/usage"
	// PathVaultImport makes a vault that exists known to the region.
	PathVaultImport  = "/v1/vaults/import"
	PathVaultReclaim = "/v1/vaults/{vault}/reclaim"
	PathVaultVerify  = "/v1/vaults/{vault}/verify"
	// PathVaultRedundancy is how many copies a vault keeps, and where.
	PathVaultRedundancy = "/v1/vaults/{vault}/redundancy"
	PathVaultRepair     = "/v1/vaults/{vault}/repair"
	// PathVaultKeep is how long a replica's points are kept here.
	PathVaultKeep    = "/v1/vaults/{vault}/keep"
	PathVaultRebuild = "/v1/vaults/{vault}/catalog/rebuild"

	PathUnits = "/v1/units"
	// PathUnit is one storage unit, by its URL.
	PathUnit = "/v1/units/{unit}"
	// PathUnitDrain has a unit's copies made elsewhere.
	PathUnitDrain = "/v1/units/{unit}/drain"

	PathVaultKeys      = "/v1/vaults/{vault}/keys"
	PathVaultRotate    = "/v1/vaults/{vault}/keys/rotate"
	PathVaultAddKey    = "/v1/vaults/{vault}/keys/add-recipient"
	PathVaultRemoveKey = "/v1/vaults/{vault}/keys/remove-recipient"
	PathVaultEscrow    = "/v1/vaults/{vault}/keys/escrow-check"

	PathPolicies = "/v1/policies"
	PathPolicy   = "/v1/policies/{policy}"
	// PathPolicySimulation takes ?days=N.
	PathPolicySimulation = "/v1/policies/{policy}/simulation"

	PathBackups       = "/v1/backups"
	PathPoints        = "/v1/points"
	PathPoint         = "/v1/points/{point}"
	PathPointRestores = "/v1/points/{point}/restores"
	PathPointPin      = "/v1/points/{point}/pin"
	PathPointVerify   = "/v1/points/{point}/verify"
	// PathPointSecrets takes ?host=NAME and ?tier=TIER.
	PathPointSecrets = "/v1/points/{point}/secrets"
	PathRestores     = "/v1/restores"
	// PathDeploys makes VMs of restored disks.
	PathDeploys = "/v1/deploys"

	// Both are of a live restore, by its job.
	PathRestoreFinish  = "/v1/restores/{job}/finish"
	PathRestoreAbandon = "/v1/restores/{job}/abandon"

	PathJobs      = "/v1/jobs"
	PathJob       = "/v1/jobs/{job}"
	PathJobCancel = "/v1/jobs/{job}/cancel"
	PathJobRetry  = "/v1/jobs/{job}/retry"
	PathJobUndo   = "/v1/jobs/{job}/undo"
	PathJobEvents = "/v1/jobs/{job}/events"

	PathDrills = "/v1/drills"
	PathDrill  = "/v1/drills/{drill}"
	// PathDrillPlans are plans of drills.
	PathDrillPlans    = "/v1/drill-plans"
	PathDrillPlan     = "/v1/drill-plans/{plan}"
	PathDrillSchedule = "/v1/drill-plans/{plan}/schedule"

	PathRegions = "/v1/regions"
	PathRegion  = "/v1/regions/{region}"
	// PathPairingTokens makes a token, PathPairings uses another region's.
	PathPairingTokens = "/v1/pairing-tokens"
	PathPairings      = "/v1/pairings"

	PathReplications      = "/v1/replications"
	PathReplicationPause  = "/v1/regions/{region}/pause"
	PathReplicationResume = "/v1/regions/{region}/resume"

	PathAudit  = "/v1/audit"
	PathTokens = "/v1/tokens"
	PathToken  = "/v1/tokens/{token}"
)

// Path fills the parts in braces with the values, in order and escaped.
func Path(pattern string, values ...string) string {
	var b strings.Builder
	for _, value := range values {
		before, rest, found := strings.Cut(pattern, "{")
		if !found {
			break
		}
		_, after, _ := strings.Cut(rest, "}")
		b.WriteString(before)
		b.WriteString(url.PathEscape(value))
		pattern = after
	}
	b.WriteString(pattern)
	return b.String()
}
