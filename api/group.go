package api

import backstay "github.com/backstay/backstay"

// CreateGroupRequest asks for a group of VMs whose points are taken at one
// instant.
type CreateGroupRequest struct {
	Name backstay.GroupName `json:"name" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._-]*$"`
	// VMs are UUIDs, NAMEs or HOST/NAMEs of protected VMs, on any hosts.
	VMs []string `json:"vms" minItems:"2" maxItems:"64" nullable:"false" doc:"UUID, NAME or HOST/NAME of each VM"`
}
