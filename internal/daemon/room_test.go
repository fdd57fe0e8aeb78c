package daemon

import (
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
)

// The faster a file system fills, the sooner it is looked at again; a lull does
// not hide a stream.
func TestTheRoomIsLookedAtMoreOftenAsItFills(t *testing.T) {
	at := time.Date(2026, 1, 1, 0, 0, 0, 0, time.UTC)
	const mib = 1 << 20
	room := func(after time.Duration, free int64) backstay.Room {
		return backstay.Room{Device: "8:1", Free: free * mib, Floor: 100 * mib, Seen: at.Add(after), VMs: []backstay.RoomVM{{}}}
	}
	first := room(0, 500)
	if first.PerSecond = fills(nil, first); lookAgain(first) != calmLook {
		t.Errorf("at first: %d, %v", first.PerSecond, lookAgain(first))
	}
	second := room(5*time.Second, 200)
	if second.PerSecond = fills([]backstay.Room{first}, second); second.PerSecond != 60*mib || lookAgain(second).Round(time.Millisecond) != 417*time.Millisecond {
		t.Errorf("filling: %d, %v", second.PerSecond, lookAgain(second))
	}
	third := room(6*time.Second, 200)
	if third.PerSecond = fills([]backstay.Room{second}, third); third.PerSecond != 30*mib {
		t.Errorf("in a lull: %d", third.PerSecond)
	}
	low := room(7*time.Second, 90)
	if low.PerSecond = 0; lookAgain(low) != time.Second {
		t.Errorf("below the floor: %v", lookAgain(low))
	}
	near := room(7*time.Second, 101)
	if near.PerSecond = 100 * mib; lookAgain(near) != busyLook {
		t.Errorf("near the floor: %v", lookAgain(near))
	}
	if lookAgain(backstay.Room{}) != idleLook {
		t.Error("a host without layers is looked at too often")
	}
}
