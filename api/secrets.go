package api

import backstay "github.com/backstay/backstay"

// SecretState is a secret that a point needs, as a host has it. It holds no value.
type SecretState struct {
	backstay.PointSecret
	// Disks are those that it opens; none for that of a TPM.
	Disks []backstay.DiskTarget `json:"disks"`
	// Present: the host has it.
	Present bool `json:"present"`
	// Problem is why a restore on the host would fail on it; nothing if it would not.
	Problem *backstay.Error `json:"problem,omitempty"`
	// Note says what could not be found out.
	Note string `json:"note,omitempty"`
	// Escrow is the value, encrypted to the recovery recipients of the vault alone
	// (age); only who has a recovery key can open it.
	Escrow []byte `json:"escrow,omitempty"`
}

// PointSecrets are the secrets that a restore of a point on a host needs.
type PointSecrets struct {
	Point   backstay.PointID  `json:"point"`
	Host    backstay.HostName `json:"host"`
	Tier    backstay.Tier     `json:"tier"`
	Secrets []SecretState     `json:"secrets"`
}

// GivenSecret is a secret whose value somebody brings along.
type GivenSecret struct {
	UUID  string `json:"uuid" minLength:"36" maxLength:"36"`
	Value []byte `json:"value" doc:"base64"`
}

// GiveSecretsRequest brings the values of secrets that a host lacks. They are made
// there, and kept nowhere else.
type GiveSecretsRequest struct {
	// Host is the host that gets them; empty means the point's own.
	Host backstay.HostName `json:"host,omitempty"`
	// Tier is the tier that the restore will read; empty means as a restore chooses.
	Tier    backstay.Tier `json:"tier,omitempty" enum:"snapshot,vault"`
	Secrets []GivenSecret `json:"secrets" minItems:"1" maxItems:"64"`
}
