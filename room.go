package backstay

import "time"

// Room is the room on one file system of a host that holds layers: what is left
// of it, and who takes it.
type Room struct {
	Host HostName `json:"host"`
	// Folder is a folder with layers on the file system, and Device tells it from
	// the host's others.
	Folder string `json:"folder"`
	Device string `json:"device"`
	Free   int64  `json:"free"`  // bytes
	Total  int64  `json:"total"` // bytes
	// Merge is the most that any one merge could need before it gives room back,
	// in bytes.
	Merge int64 `json:"merge"`
	// Floor is how much must stay free, in bytes: below it points leave the
	// snapshot tier before their time. 0 if it is not known yet.
	Floor int64 `json:"floor"`
	// PerSecond is how fast it fills, in bytes; 0 if it does not.
	PerSecond int64    `json:"perSecond"`
	VMs       []RoomVM `json:"vms"`
	// Warning says what keeps points from going although the floor is not held;
	// empty if nothing does.
	Warning string    `json:"warning"`
	Seen    time.Time `json:"seen"`
}

// RoomVM is a VM with layers on a file system.
type RoomVM struct {
	VM VMRef `json:"vm"`
	// Depth is the number of points in its deepest chain.
	Depth int `json:"depth"`
	// Active is what the overlays that it writes to take, and Frozen what those
	// below them do, in bytes.
	Active int64 `json:"active"`
	Frozen int64 `json:"frozen"`
	// Stalled: QEMU paused the VM since a request to a disk failed.
	Stalled bool        `json:"stalled"`
	Points  []RoomPoint `json:"points"`
}

// RoomPoint is a point with layers on a file system, oldest first.
type RoomPoint struct {
	Point PointID   `json:"point"`
	Time  time.Time `json:"time"`
	// Held says who needs its layers, so that it cannot go.
	Held []string `json:"held,omitempty"`
	// Transfers are the jobs that read its layers; it can go when they have ended.
	Transfers []JobID `json:"transfers,omitempty"`
}

// The floor of free space where nobody sets one: so many bytes, or a twentieth of
// the file system if that is more, and at most a quarter of it.
const leastFloor = 2 << 30

// DefaultFloor is the room that must stay free on a file system of that size, in
// bytes, beside what the largest merge needs.
func DefaultFloor(total int64) int64 {
	return min(max(leastFloor, total/20), total/4)
}

// Low tells whether the floor is not held.
func (r *Room) Low() bool { return r.Free < r.Floor }
