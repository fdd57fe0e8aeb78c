package tier

import backstay "github.com/backstay/backstay"

// Secret is a secret of the hypervisor: a passphrase that opens disks, or the
// state of a TPM. It is part of a Definition and sealed with it (I10).
type Secret struct {
	UUID        string `json:"uuid"`
	Usage       string `json:"usage,omitempty"`   // volume, vtpm …; "" for none
	UsageID     string `json:"usageID,omitempty"` // what it is used for: a path, a name
	Description string `json:"description,omitempty"`
	Ephemeral   bool   `json:"ephemeral,omitempty"`
	Private     bool   `json:"private,omitempty"`

	Scheme backstay.SecretScheme `json:"scheme"`
	// Value is of SecretInPoint.
	Value []byte `json:"value,omitempty"`
	// Reason says why there is no value, or nothing that a key service wrapped.
	Reason string `json:"reason,omitempty"`
	// Service and Wrapped are of SecretInService: the key service's name, and the
	// value as it wrapped it; "" if it could not be reached.
	Service string `json:"service,omitempty"`
	Wrapped string `json:"wrapped,omitempty"`
	// Escrow is the value encrypted to the vault's recovery recipients alone (age);
	// of SecretInService.
	Escrow []byte `json:"escrow,omitempty"`
}

// References are the secrets of a definition without their values.
func (d *Definition) References() []backstay.PointSecret {
	var all []backstay.PointSecret
	for _, s := range d.Secrets {
		all = append(all, backstay.PointSecret{UUID: s.UUID, Scheme: s.Scheme, Service: s.Service, Reason: s.Reason})
	}
	return all
}

// HostFile is a small file of the host that a VM needs.
type HostFile struct {
	Content []byte `json:"content"`
	Mode    uint32 `json:"mode"` // permissions
	UID     int    `json:"uid"`
	GID     int    `json:"gid"`
}
