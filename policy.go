package backstay

import (
	"encoding/json"
	"fmt"
	"math"
	"time"
)

// Policy says when points are taken and how long each tier keeps them.
type Policy struct {
	Name PolicyName `json:"name"`
	// Every is the interval between two backups, in seconds; 0 means that only
	// people take points.
	Every Duration `json:"every"`
	// Consistency is what is wished for; a weaker one is taken, and said, when
	// the guest does not allow it.
	Consistency Consistency  `json:"consistency"`
	Snapshot    SnapshotKeep `json:"snapshot"`
	Vault       VaultKeep    `json:"vault"`
}

// SnapshotKeep says how long points stay in the snapshot tier. A point goes
// when either limit says so; the newest one of a VM always stays, since the
// next change map is relative to it.
type SnapshotKeep struct {
	Days  int `json:"days"`  // 1 to 30
	Count int `json:"count"` // at most this many for each VM; 0 means no limit
}

// VaultKeep says which points stay in the vault tier: the newest Last ones and
// the newest one of each of so many days, weeks, months and years that have one.
// All times are UTC; weeks are ISO weeks.
type VaultKeep struct {
	Last    int `json:"last"`
	Daily   int `json:"daily"`
	Weekly  int `json:"weekly"`
	Monthly int `json:"monthly"`
	Yearly  int `json:"yearly"`
}

// Duration is a time.Duration whose JSON is a number of seconds.
type Duration time.Duration

// MarshalJSON writes whole and fractional seconds.
func (d Duration) MarshalJSON() ([]byte, error) {
	return json.Marshal(time.Duration(d).Seconds())
}

// UnmarshalJSON reads a number of seconds.
func (d *Duration) UnmarshalJSON(data []byte) error {
	var seconds float64
	if err := json.Unmarshal(data, &seconds); err != nil {
		return fmt.Errorf("a duration is a number of seconds: %w", err)
	}
	// Beyond this an int64 of nanoseconds wraps around, to a negative one perhaps.
	if most := time.Duration(math.MaxInt64).Seconds(); seconds <= -most || seconds >= most {
		return fmt.Errorf("a duration of %g seconds is out of range", seconds)
	}
	*d = Duration(seconds * float64(time.Second))
	return nil
}

// ProtectedItem is a VM under a policy, in a vault.
type ProtectedItem struct {
	VM     VMRef      `json:"vm"`
	Policy PolicyName `json:"policy"`
	Vault  VaultName  `json:"vault"`
	// Excluded are the disks that the user left out.
	Excluded  []DiskTarget `json:"excluded"`
	Since     time.Time    `json:"since"`
	LastPoint *time.Time   `json:"lastPoint"`
	NextDue   *time.Time   `json:"nextDue"`
}
