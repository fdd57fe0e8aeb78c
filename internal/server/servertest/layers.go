package servertest

import (
	"context"
	"slices"
	"sync"

	backstay "github.com/backstay/backstay"
)

// Layers is the snapshot tier of the world's hosts.
type Layers struct {
	mu     sync.Mutex
	pinned []backstay.PointID // guarded by mu
	// Room is what is told of the host "local". Set it before use.
	Room []backstay.Room
	// Away is what Pin fails with. Set it before use.
	Away error
}

// Pin remembers the pins.
func (l *Layers) Pin(_ context.Context, _ backstay.HostName, p backstay.PointID, pinned bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.Away != nil {
		return l.Away
	}
	l.pinned = slices.DeleteFunc(l.pinned, func(o backstay.PointID) bool { return o == p })
	if pinned {
		l.pinned = append(l.pinned, p)
	}
	return nil
}

// Pinned returns the points that are pinned.
func (l *Layers) Pinned() []backstay.PointID {
	l.mu.Lock()
	defer l.mu.Unlock()
	return slices.Clone(l.pinned)
}

// Rooms returns Room.
func (l *Layers) Rooms(host backstay.HostName) []backstay.Room {
	if host != "local" {
		return nil
	}
	return l.Room
}
