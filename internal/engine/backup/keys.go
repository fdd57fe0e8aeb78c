package backup

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// keysOf says how a point of an item holds the VM's secrets; nil for by value.
func (b *backupRun) keysOf(ctx context.Context, item backstay.ProtectedItem) (*mover.KeyPolicy, error) {
	if b.Keys == nil {
		return nil, nil
	}
	return b.Keys(ctx, item)
}
