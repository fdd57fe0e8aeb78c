package mover

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// PointOf makes a catalogue entry of what a mover recorded beside the disk.
func PointOf(taken Taken, vault backstay.VaultName, now time.Time) backstay.RecoveryPoint {
	point := backstay.RecoveryPoint{
		ID: taken.Point, VM: taken.Shape.Ref(), Vault: vault, Time: taken.Time,
		Consistency: taken.Consistency, ConsistencyReason: taken.Reason,
		Disks: append([]backstay.PointDisk(nil), taken.Disks...), Parent: taken.Parent, Pinned: taken.Pinned,
		Firmware: taken.Shape.Firmware, TPM: taken.Shape.TPM, Shape: taken.Shape,
		Encrypted: backstay.EncryptionOf(taken.Shape, taken.Disks, taken.Secrets), Replicas: []backstay.Replica{},
	}
	point.SetTier(backstay.SnapshotTier, backstay.TierAvailable, now)
	return point
}
