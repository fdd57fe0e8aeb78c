package server

import (
	"net/http"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// route is one operation of the API with the right that it needs.
type route struct {
	id     string // the operation's name in the OpenAPI document
	method string
	path   string
	need   backstay.Role // "" needs no token
	says   string        // one line for the OpenAPI document
	status int           // of success; 0 means 200
	plain  bool          // served outside the OpenAPI document
	stream bool          // runs for as long as the client wants
	files  bool          // needs the right to files beside the role
	owners bool          // an owner needs no right to files here
	ticket bool          // may be used with the ticket of the session in its path
	reads  bool          // hands out content of guests, and so is audited
	scoped bool          // open to a token of one point, for what is that point's
}

const (
	get  = http.MethodGet
	post = http.MethodPost
	put  = http.MethodPut
	del  = http.MethodDelete
)

// routes is the only place that gives a route its right. A route that is not
// here cannot be served: registering one panics at the start.
var routes = []route{
	{id: "health", method: get, path: api.PathHealth, says: "Whether the server is there and its catalogue answers", plain: true},
	{id: "metrics", method: get, path: api.PathMetrics, need: backstay.Reader, says: "Metrics for Prometheus", plain: true},
	{id: "openapi", method: get, path: api.PathOpenAPI, need: backstay.Reader, says: "This document", plain: true},
	{id: "whoAmI", method: get, path: api.PathWhoAmI, need: backstay.Reader, scoped: true, says: "Who the token belongs to"},

	{id: "listHosts", method: get, path: api.PathHosts, need: backstay.Reader, says: "All hosts"},
	{id: "getHost", method: get, path: api.PathHost, need: backstay.Reader, says: "One host"},
	{id: "listRooms", method: get, path: api.PathHostRooms, need: backstay.Reader, says: "The room that layers take on a host, and what must stay free"},
	{id: "listVMs", method: get, path: api.PathVMs, need: backstay.Reader, says: "All VMs, protected or not, and why one cannot be"},
	{id: "getVM", method: get, path: api.PathVM, need: backstay.Reader, says: "One VM"},
	{id: "protectVM", method: put, path: api.PathProtection, need: backstay.Operator, says: "Put a VM under a policy, in a vault"},
	{id: "unprotectVM", method: del, path: api.PathProtection, need: backstay.Owner, says: "End a VM's protection and put it back on its own files; its points in vaults stay, unless told otherwise"},
	{id: "listItems", method: get, path: api.PathItems, need: backstay.Reader, says: "All protected items"},

	{id: "listGroups", method: get, path: api.PathGroups, need: backstay.Reader, says: "All groups of VMs"},
	{id: "createGroup", method: post, path: api.PathGroups, need: backstay.Operator, says: "Make a group of VMs whose points are taken at one instant", status: http.StatusCreated},
	{id: "getGroup", method: get, path: api.PathGroup, need: backstay.Reader, says: "One group"},
	{id: "deleteGroup", method: del, path: api.PathGroup, need: backstay.Operator, says: "Forget a group; its VMs stay protected", status: http.StatusNoContent},

	{id: "listVaults", method: get, path: api.PathVaults, need: backstay.Reader, says: "All vaults, as last checked"},
	{id: "createVault", method: post, path: api.PathVaults, need: backstay.Owner, says: "Make a vault; the recovery key is in this answer and never again", status: http.StatusCreated},
	{id: "getVault", method: get, path: api.PathVault, need: backstay.Reader, says: "One vault, checked now"},
	{id: "getVaultUsage", method: get, path: api.PathVaultUsage, need: backstay.Reader, says: "What a vault holds"},

	{id: "importVault", method: post, path: api.PathVaultImport, need: backstay.Owner, says: "Take in a vault that exists, and fill the catalogue from it", status: http.StatusCreated},
	{id: "setVaultKeep", method: put, path: api.PathVaultKeep, need: backstay.Owner, says: "How long this region keeps the points of a replica; the vault's own region is not asked, and keeps its own"},
	{id: "verifyVault", method: post, path: api.PathVaultVerify, need: backstay.Operator, says: "Read and prove every object of a vault in every copy", status: http.StatusAccepted},
	{id: "setRedundancy", method: put, path: api.PathVaultRedundancy, need: backstay.Owner, says: "Bring a vault to another redundancy, or to other storage units", status: http.StatusAccepted},
	{id: "repairVault", method: post, path: api.PathVaultRepair, need: backstay.Operator, says: "Mend what verifying a vault found", status: http.StatusAccepted},
	{id: "reclaimVault", method: post, path: api.PathVaultReclaim, need: backstay.Owner, says: "Give back what no recovery point of a vault needs, or plan it", status: http.StatusAccepted},
	{id: "rebuildCatalogue", method: post, path: api.PathVaultRebuild, need: backstay.Owner, says: "Make the catalogue agree with a vault; from then on its present state counts, also if it is an older one", status: http.StatusAccepted},

	{id: "listUnits", method: get, path: api.PathUnits, need: backstay.Reader, says: "The storage units of the region, as last looked at"},
	{id: "addUnit", method: post, path: api.PathUnits, need: backstay.Owner, says: "Make a place known as a storage unit; a folder is made one", status: http.StatusCreated},
	{id: "drainUnit", method: post, path: api.PathUnitDrain, need: backstay.Owner, says: "Let no vault onto a storage unit any more, and have its copies made elsewhere", status: http.StatusAccepted},
	{id: "removeUnit", method: del, path: api.PathUnit, need: backstay.Owner, says: "Forget a storage unit that no vault is on", status: http.StatusNoContent},
	{id: "getUnit", method: get, path: api.PathUnit, need: backstay.Reader, says: "One storage unit, looked at now"},

	{id: "getVaultKeys", method: get, path: api.PathVaultKeys, need: backstay.Reader, says: "Who can open a vault, and what is wrong with its keys on the storage units"},
	{id: "rotateVaultKeys", method: post, path: api.PathVaultRotate, need: backstay.Owner, says: "Seal what is new with a new key; nothing is written again"},
	{id: "addVaultRecipient", method: post, path: api.PathVaultAddKey, need: backstay.Owner, says: "Let one recipient more open a vault"},
	{id: "removeVaultRecipient", method: post, path: api.PathVaultRemoveKey, need: backstay.Owner, says: "Take a recipient out of a vault, and rotate its keys"},
	{id: "checkEscrow", method: post, path: api.PathVaultEscrow, need: backstay.Operator, says: "Prove from the storage units alone that a key opens a vault; it is kept nowhere"},

	{id: "listPolicies", method: get, path: api.PathPolicies, need: backstay.Reader, says: "All policies"},
	{id: "createPolicy", method: post, path: api.PathPolicies, need: backstay.Owner, says: "Make a policy", status: http.StatusCreated},
	{id: "getPolicy", method: get, path: api.PathPolicy, need: backstay.Reader, says: "One policy"},
	{id: "editPolicy", method: put, path: api.PathPolicy, need: backstay.Owner, says: "Replace a policy; it counts for old and new points alike"},
	{id: "simulatePolicy", method: get, path: api.PathPolicySimulation, need: backstay.Reader, says: "What a policy would keep, had it been at work for so many days"},
	{id: "deletePolicy", method: del, path: api.PathPolicy, need: backstay.Owner, says: "Delete a policy that no item uses", status: http.StatusNoContent},

	{id: "startBackup", method: post, path: api.PathBackups, need: backstay.Operator, says: "Take a recovery point of a protected VM", status: http.StatusAccepted},
	{id: "listPoints", method: get, path: api.PathPoints, need: backstay.Reader, scoped: true, says: "Recovery points, newest first"},
	{id: "getPoint", method: get, path: api.PathPoint, need: backstay.Reader, scoped: true, says: "One recovery point"},
	{id: "deletePoint", method: del, path: api.PathPoint, need: backstay.Owner, says: "Delete a recovery point from all its tiers", status: http.StatusAccepted},
	{id: "pinPoint", method: put, path: api.PathPointPin, need: backstay.Operator, says: "Keep a recovery point until it is unpinned"},
	{id: "unpinPoint", method: del, path: api.PathPointPin, need: backstay.Owner, says: "Let a recovery point go by its policy again"},
	{id: "getPointRestores", method: get, path: api.PathPointRestores, need: backstay.Reader, scoped: true, says: "Which restores a point allows, and if not, why"},
	{id: "verifyPoint", method: post, path: api.PathPointVerify, need: backstay.Operator, says: "Read a whole point and compute its disks' SHA-256", status: http.StatusAccepted},
	{id: "getPointSecrets", method: get, path: api.PathPointSecrets, need: backstay.Operator, scoped: true, says: "The secrets of the host that a restore of the point needs; no values"},
	{id: "giveSecrets", method: post, path: api.PathPointSecrets, need: backstay.Operator, scoped: true, says: "Make secrets that the point needs and the host lacks; they are kept there alone", status: http.StatusNoContent},
	{id: "startRestore", method: post, path: api.PathRestores, need: backstay.Operator, scoped: true, says: "Restore a point, or plan it; refused when the pre-flight list refuses", status: http.StatusAccepted},

	{id: "startDeploy", method: post, path: api.PathDeploys, need: backstay.Operator, says: "Make a VM of restored disks and their template, or plan it; refused when a value or the pre-flight list refuses", status: http.StatusAccepted},
	{id: "finishRestore", method: post, path: api.PathRestoreFinish, need: backstay.Operator, scoped: true, says: "Copy the rest of a live restore as fast as it can be, whatever the guest feels"},
	{id: "abandonRestore", method: post, path: api.PathRestoreAbandon, need: backstay.Owner, says: "Throw away the VM of a live restore that is not complete, with all that its guest wrote"},

	{id: "openFiles", method: post, path: api.PathFileSessions, need: backstay.Reader, scoped: true, files: true, says: "Open a point for item-level restore; the session's ticket is in this answer and never again", status: http.StatusCreated, stream: true},
	{id: "listFileSessions", method: get, path: api.PathFileSessions, need: backstay.Reader, scoped: true, files: true, owners: true, says: "The caller's open sessions; an owner's list has all"},
	{id: "getFileSession", method: get, path: api.PathFileSession, need: backstay.Reader, scoped: true, files: true, owners: true, ticket: true, says: "One session, with the volumes of its point"},
	{id: "endFileSession", method: del, path: api.PathFileSession, need: backstay.Reader, scoped: true, files: true, owners: true, ticket: true, says: "End a session at once", status: http.StatusNoContent},
	{id: "unlockVolume", method: post, path: api.PathFileUnlock, need: backstay.Reader, scoped: true, files: true, ticket: true, says: "Open a locked volume; the key is kept nowhere", stream: true},
	{id: "listFolder", method: get, path: api.PathFileFolder, need: backstay.Reader, scoped: true, files: true, ticket: true, says: "A part of a folder"},
	{id: "getEntry", method: get, path: api.PathFileEntry, need: backstay.Reader, scoped: true, files: true, ticket: true, says: "One file, folder, link or node"},
	{id: "readFile", method: get, path: api.PathFileContent, need: backstay.Reader, scoped: true, files: true, ticket: true, reads: true, says: "The content of a file, or a range of it", stream: true},
	{id: "takeFiles", method: post, path: api.PathFileTake, need: backstay.Reader, scoped: true, files: true, ticket: true, reads: true, says: "Files and folders with all that is in them, as one stream", stream: true},
	{id: "putFiles", method: post, path: api.PathFilePut, need: backstay.Operator, files: true, says: "Put files and folders into a running guest, through its agent", status: http.StatusAccepted},
	{id: "readDisk", method: get, path: api.PathFileDisk, need: backstay.Reader, scoped: true, files: true, ticket: true, reads: true, says: "The content of a whole disk, or a range of it, in a session of kind nbd", stream: true},

	{id: "findFiles", method: get, path: api.PathFindFiles, need: backstay.Reader, files: true, reads: true, says: "Files over all points of a VM, with their versions", stream: true},
	{id: "diffPoints", method: get, path: api.PathPointDiff, need: backstay.Reader, files: true, reads: true, says: "What changed between two points of a VM", stream: true},

	{id: "startDrill", method: post, path: api.PathDrills, need: backstay.Operator, says: "Restore VMs into an isolated network, probe them and take them down again, or plan that", status: http.StatusAccepted},
	{id: "listDrills", method: get, path: api.PathDrills, need: backstay.Reader, says: "What drills found, newest first, and whether the records are as they were written"},
	{id: "getDrill", method: get, path: api.PathDrill, need: backstay.Reader, says: "The whole record of one drill, with its pictures"},
	{id: "listDrillPlans", method: get, path: api.PathDrillPlans, need: backstay.Reader, says: "All plans of drills, and what came of each last"},
	{id: "createDrillPlan", method: post, path: api.PathDrillPlans, need: backstay.Operator, says: "Make a plan of drills", status: http.StatusCreated},
	{id: "getDrillPlan", method: get, path: api.PathDrillPlan, need: backstay.Reader, says: "One plan of drills"},
	{id: "scheduleDrill", method: put, path: api.PathDrillSchedule, need: backstay.Operator, says: "Run a plan of drills by itself, or not any more"},
	{id: "deleteDrillPlan", method: del, path: api.PathDrillPlan, need: backstay.Operator, says: "Forget a plan of drills; its records stay", status: http.StatusNoContent},

	{id: "listJobs", method: get, path: api.PathJobs, need: backstay.Reader, scoped: true, says: "Jobs, newest first"},
	{id: "getJob", method: get, path: api.PathJob, need: backstay.Reader, scoped: true, says: "One job"},
	{id: "cancelJob", method: post, path: api.PathJobCancel, need: backstay.Operator, scoped: true, says: "Cancel a job; it undoes what it did"},
	{id: "retryJob", method: post, path: api.PathJobRetry, need: backstay.Operator, says: "Queue a job that ended anew, as a new job", status: http.StatusAccepted},
	{id: "undoJob", method: post, path: api.PathJobUndo, need: backstay.Operator, says: "Take a restore back, or plan that; refused when it cannot be done any more", status: http.StatusAccepted},
	{id: "followJob", method: get, path: api.PathJobEvents, need: backstay.Reader, scoped: true, says: "The job after each change, until it ended, as server-sent events", stream: true},

	{id: "listRegions", method: get, path: api.PathRegions, need: backstay.Reader, says: "The regions with which this one is paired"},
	{id: "getRegion", method: get, path: api.PathRegion, need: backstay.Reader, says: "One paired region"},
	{id: "removeRegion", method: del, path: api.PathRegion, need: backstay.Owner, says: "End the pairing with a region on this side; refused while a vault is replicated to it", status: http.StatusNoContent},
	{id: "createPairingToken", method: post, path: api.PathPairingTokens, need: backstay.Owner, says: "Make a token by which another region's server pairs with this one, once; it is in this answer and never again", status: http.StatusCreated},
	{id: "pairRegion", method: post, path: api.PathPairings, need: backstay.Owner, says: "Pair with the region whose server made the token", status: http.StatusCreated},
	{id: "listReplications", method: get, path: api.PathReplications, need: backstay.Reader, says: "How far each GRS vault is in the paired region"},
	{id: "pauseReplication", method: post, path: api.PathReplicationPause, need: backstay.Operator, says: "Push nothing to a region until it is resumed"},
	{id: "resumeReplication", method: post, path: api.PathReplicationResume, need: backstay.Operator, says: "Go on with pushing to a region"},

	{id: "listAudit", method: get, path: api.PathAudit, need: backstay.Operator, says: "What was asked for, by whom, and what came of it"},
	{id: "listTokens", method: get, path: api.PathTokens, need: backstay.Owner, says: "All tokens, without their secrets"},
	{id: "createToken", method: post, path: api.PathTokens, need: backstay.Owner, says: "Make a token; its secret is in this answer and never again", status: http.StatusCreated},
	{id: "deleteToken", method: del, path: api.PathToken, need: backstay.Owner, says: "Delete a token", status: http.StatusNoContent},
}

// audited tells whether the route may change something, or hands out what guests
// hold, and so is audited.
func (r route) audited() bool { return r.method != get || r.reads }

// pattern is the route in the words of http.ServeMux.
func (r route) pattern() string { return r.method + " " + r.path }

func routeByID(id string) route {
	for _, r := range routes {
		if r.id == id {
			return r
		}
	}
	panic("operation " + id + " is not in the table of routes")
}
