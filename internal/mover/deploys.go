package mover

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// Templated says what was written beside restored disks.
type Templated struct {
	// Files are paths on the host.
	Files []string `json:"files"`
	// Until is until when Undo removes all of it; nil if it does not.
	Until *time.Time `json:"until,omitempty"`
	// Warnings say what of the source cannot be kept, and why.
	Warnings []string `json:"warnings,omitempty"`
}

// DeployRequest names a folder of restored disks and the values that are wanted.
// Its plan is that which Deploy carries out.
type DeployRequest struct {
	Job    backstay.JobID       `json:"job,omitempty"`
	Folder string               `json:"folder"`
	Set    map[string]string    `json:"set,omitempty"`
	Plan   backstay.RestorePlan `json:"plan,omitzero"`
}

// Deploys makes VMs of restored disks, with nothing but what lies beside them.
type Deploys interface {
	// Template writes the definition, the template, its parameters and all else that
	// a VM can be made of beside the disks that Stage wrote. It is safe to repeat.
	Template(ctx context.Context, r StageRequest, progress Progress) (Templated, error)
	// Describe tells what a folder would make with these values, and changes nothing.
	// CodeNoTemplate if it holds no template, CodeUsage for a value that is not valid.
	Describe(ctx context.Context, r DeployRequest) (backstay.Deployment, error)
	// Deploy puts the firmware variables and the TPM's state in place and defines the
	// VM of the plan; it is started by Start. It is done already if an earlier call of
	// the same job defined the VM. On error nothing of it stays; Abandon and Undo remove
	// the VM, and leave its disks.
	Deploy(ctx context.Context, r DeployRequest) error
}
