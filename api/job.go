package api

import backstay "github.com/backstay/backstay"

// BackupResponse has the job that makes the point or, for a dry run, only the
// plan. Warnings name the disks that are not backed up, with the reason.
type BackupResponse struct {
	Job  *backstay.Job `json:"job,omitempty"`
	Plan BackupPlan    `json:"plan"` // of the VM, or of the first of the group
	// Plans are those of all VMs of the group; of one VM, its own.
	Plans    []BackupPlan `json:"plans"`
	Warnings []string     `json:"warnings"`
}

// RestoreRequest asks for a restore. Its point may be anything that names one.
type RestoreRequest struct{ backstay.RestoreRequest }

// RestoreResponse has the plan, and the job that carries it out unless the
// request was a dry run.
type RestoreResponse struct {
	Plan backstay.RestorePlan `json:"plan"`
	Job  *backstay.Job        `json:"job,omitempty"`
}

// UndoRequest asks to take a restore back.
type UndoRequest struct{ backstay.UndoRequest }

// UndoResponse has the plan of an undo, and the job that carries it out unless
// the request was a dry run.
type UndoResponse struct {
	Plan backstay.UndoPlan `json:"plan"`
	Job  *backstay.Job     `json:"job,omitempty"`
}

// VerifyRequest asks to read a whole point; empty means the vault tier if the
// point has it, else the snapshot tier.
type VerifyRequest struct {
	Tier backstay.Tier `json:"tier,omitempty" enum:"snapshot,vault"`
}

// JobEvent is the name of the server-sent event that carries a job.
const JobEvent = "job"
