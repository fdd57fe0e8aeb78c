package quiesce

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guestagent"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Settle undoes what a process that ended owed to a guest, and tells whether
// something was frozen. The post hook gets a minute at most here. An error means
// that the guest may still be held.
func Settle(ctx context.Context, guests hypervisor.Guests, vm backstay.VMID, d Debt) (thawed bool, err error) {
	if d.Paused {
		if _, err := LetGo(ctx, guests, vm, true); err != nil {
			return false, err
		}
	}
	if d.Asked {
		if thawed, err = frozen(ctx, guests, vm); err != nil {
			return false, err
		}
		if thawed {
			if _, err := LetGo(ctx, guests, vm, false); err != nil {
				return true, err
			}
		}
	}
	return thawed, nil
}

// RunPost runs the post hook that is owed after a crash. It gets a minute: the
// start of the server waits for it.
func RunPost(ctx context.Context, guests hypervisor.Guests, vm backstay.VMID, post Hook) error {
	post.Retries = 0
	return agent{guestagent.Agent{Guests: guests, VM: vm}}.runHook(ctx, "post", post, time.Second, time.Minute)
}
