package api

import backstay "github.com/backstay/backstay"

// DeployRequest asks for a VM of restored disks and their template.
type DeployRequest struct{ backstay.DeployRequest }

// DeployResponse has the plan and all parameters with the values that count, and
// the job that carries the plan out unless the request was a dry run.
type DeployResponse struct {
	Plan       backstay.RestorePlan `json:"plan"`
	Parameters []backstay.Parameter `json:"parameters"`
	Job        *backstay.Job        `json:"job,omitempty"`
}
