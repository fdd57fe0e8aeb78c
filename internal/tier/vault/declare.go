package vault

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
)

// Declare writes another redundancy into the vault's header. It changes nothing else:
// the copies are there before it says so. No error if the header says so already.
func (v *Vault) Declare(ctx context.Context, r backstay.Redundancy, now time.Time) error {
	c, err := v.change(ctx, now)
	if err != nil || c.before.Redundancy == r {
		return err
	}
	c.next.Redundancy = r
	_, err = c.commit(ctx, v.keys)
	return err
}
