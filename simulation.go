package backstay

import "time"

// PolicySimulation is what a policy would keep, had it been at work for so many
// days: nothing of it happened.
type PolicySimulation struct {
	Policy Policy `json:"policy"`
	// Days is how long the policy is imagined to have been at work; Until is when
	// that ends.
	Days  int       `json:"days"`
	Until time.Time `json:"until"`
	// Taken is how many points were taken.
	Taken int `json:"taken"`
	// Points are those that were taken and are still kept at the end, oldest first.
	Points []SimulatedPoint `json:"points"`
	// Deepest is the most points that a disk's chain held at once, and DeepestAt
	// when it first did; Bound is the most that it may hold.
	Deepest   int       `json:"deepest"`
	DeepestAt time.Time `json:"deepestAt"`
	Bound     int       `json:"bound"`
	// MostInVault is the most points that the vault held at once.
	MostInVault int `json:"mostInVault"`
	// Notes say what was assumed, and what would not work.
	Notes []string `json:"notes"`
}

// SimulatedPoint is one point with the reason for which each tier keeps it; a
// tier that does not has an empty one.
type SimulatedPoint struct {
	Time     time.Time `json:"time"`
	Snapshot string    `json:"snapshot"`
	Vault    string    `json:"vault"`
}
