package api

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// DrillWish is what may be said of a drill beside what it is of.
type DrillWish struct {
	Point     backstay.DrillPoint `json:"point,omitempty" enum:"newest,oldest,random" doc:"which point of each VM; empty means the newest"`
	From      backstay.DrillFrom  `json:"from,omitempty" enum:"vault,snapshot,replica" doc:"what is restored from; empty means a vault of this region, or a replica where there is no other point"`
	Host      backstay.HostName   `json:"host,omitempty" doc:"runs the VMs; empty means that of the first one's point"`
	Pool      string              `json:"pool,omitempty" doc:"a pool or a folder of the host for the VMs' overlays"`
	Subnet    string              `json:"subnet,omitempty" doc:"of the isolated network, with the host's address in it: 10.0.0.1/24; empty means a free one"`
	MaxCPUs   int                 `json:"maxCPUs,omitempty" minimum:"0" maximum:"1024" doc:"most processors of each VM; 0 leaves them"`
	MaxMemory int64               `json:"maxMemory,omitempty" minimum:"0" doc:"most memory of each VM in bytes; 0 leaves it"`
}

// StartDrillRequest asks for a drill.
type StartDrillRequest struct {
	Of string `json:"of" minLength:"1" doc:"a plan (NAME or plan:NAME), a recovery point or a VM"`
	DrillWish
	Probes  []backstay.DrillProbe `json:"probes,omitempty" maxItems:"64" nullable:"false" doc:"of a VM or a point; none means its guest agent"`
	Timeout backstay.Duration     `json:"timeout,omitempty" doc:"seconds until the VM must be healthy"`
	DryRun  bool                  `json:"dryRun,omitempty" doc:"plan it and do nothing"`
}

// StartDrillResponse has what will be restored, and the job unless it was a dry run.
type StartDrillResponse struct {
	Drill backstay.DrillParams `json:"drill"`
	Job   *backstay.Job        `json:"job,omitempty"`
}

// CreateDrillPlanRequest asks to keep a plan of drills.
type CreateDrillPlanRequest struct {
	Name backstay.DrillName `json:"name" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$"`
	// VMs are started in this order. Of each the name counts: NAME, HOST/NAME or UUID.
	VMs []NewDrillVM `json:"vms" minItems:"1" maxItems:"32" nullable:"false"`
	DrillWish
	Every backstay.Duration `json:"every,omitempty" doc:"seconds between two runs by itself; 0 means that people run it"`
}

// NewDrillVM is one VM of a new plan.
type NewDrillVM struct {
	VM      string                `json:"vm" minLength:"1" doc:"UUID, NAME or HOST/NAME; one whose host is gone is known by its points"`
	Delay   backstay.Duration     `json:"delay,omitempty" doc:"seconds before it is started"`
	NoWait  bool                  `json:"noWait,omitempty" doc:"start the next one without waiting until it is healthy"`
	Probes  []backstay.DrillProbe `json:"probes,omitempty" maxItems:"64" nullable:"false" doc:"none means its guest agent"`
	Timeout backstay.Duration     `json:"timeout,omitempty" doc:"seconds until it must be healthy"`
}

// ScheduleDrillRequest says how often a plan is run by itself.
type ScheduleDrillRequest struct {
	Every backstay.Duration `json:"every" doc:"seconds between two runs; 0 ends the schedule"`
}

// DrillPlanDetail is a plan with what came of it.
type DrillPlanDetail struct {
	backstay.DrillPlan
	// Next is when it is run by itself next; nil if it is not.
	Next *time.Time `json:"next,omitempty"`
	// Last is the newest record of it, without pictures; nil before the first.
	Last *backstay.DrillRecord `json:"last,omitempty"`
}

// DrillList has records of drills, newest first and without pictures, and whether all
// that there are are as they were written.
type DrillList struct {
	Drills []backstay.DrillRecord `json:"drills"`
	Chain  DrillChain             `json:"chain"`
}

// DrillChain tells whether the records are as they were written.
type DrillChain struct {
	Whole   bool `json:"whole"`
	Records int  `json:"records"`
	// BrokenAt is the number of the first record that is not, and How says what is wrong.
	BrokenAt int64  `json:"brokenAt,omitempty"`
	How      string `json:"how,omitempty"`
	// Head is the hash of the newest record: kept elsewhere, it vouches for all of them.
	Head string `json:"head"`
}
