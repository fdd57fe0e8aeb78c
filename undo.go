package backstay

import "time"

// UndoRequest asks to take a restore back.
type UndoRequest struct {
	// Stop shuts the VM off first, where it runs. A VM that the restore made is ended
	// in any case.
	Stop bool `json:"stop,omitempty"`
	// Start starts the VM afterwards whose disks came back.
	Start bool `json:"start,omitempty"`
	// NoSafetyPoint takes no point of what the undo takes away.
	NoSafetyPoint bool `json:"noSafetyPoint,omitempty"`
	// DryRun answers with the plan and does nothing.
	DryRun bool `json:"dryRun,omitempty"`
}

// UndoPlan is what an undo will do.
type UndoPlan struct {
	Job  JobID       `json:"job"` // the restore's
	Kind RestoreKind `json:"kind"`
	VM   VMRef       `json:"vm"`
	// Until is until when the restore can be undone; nil if that is not known.
	Until *time.Time `json:"until"`
	// SafetyPoint is the id of the point that is taken first of what goes; empty for none.
	SafetyPoint PointID `json:"safetyPoint,omitempty"`
	// Effects say in words what will be, one thing a line.
	Effects []string `json:"effects"`
	// Tasks are the steps of the job.
	Tasks []string `json:"tasks"`
}
