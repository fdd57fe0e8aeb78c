package backstay

import (
	"fmt"
	"io"
)

// The identifiers are types so that one cannot be handed where another is meant.
type (
	// VMID is a VM's libvirt UUID in its canonical lower-case form. A VM is its
	// UUID within a region (architecture decision 11).
	VMID string
	// PointID names a recovery point. It is a ULID: 26 characters, ordered by
	// the time at which it was made.
	PointID string
	// JobID names a job. It is a ULID.
	JobID string
	// LayerID names one image file in a disk's tree of overlays. It is a ULID.
	LayerID string
	// HostName is the name under which a region knows a host.
	HostName string
	// VaultName is the name under which a region knows a vault.
	VaultName string
	// RegionName is the name of a region: one deployment of backstay.
	RegionName string
	// PolicyName is the name of a policy.
	PolicyName string
	// GroupName is the name of a group of VMs.
	GroupName string
	// DiskTarget is a disk's name in the guest as libvirt says it: vda, sdb.
	DiskTarget string
)

// Secret is a value that prints as stars in logs, errors and JSON. Reveal is
// the only way to the value, so every use of it can be found.
type Secret struct{ value []byte }

// NewSecret wraps a value; the caller must not keep using the slice.
func NewSecret(value []byte) Secret { return Secret{value} }

// Reveal returns the value itself, not a copy.
func (s Secret) Reveal() []byte { return s.value }

// String returns stars, whatever the value.
func (s Secret) String() string { return "*****" }

// Format prints stars, whatever the verb.
func (s Secret) Format(f fmt.State, _ rune) { _, _ = io.WriteString(f, s.String()) }

// MarshalText returns stars, so that no encoder prints the value.
func (s Secret) MarshalText() ([]byte, error) { return []byte("*****"), nil }
