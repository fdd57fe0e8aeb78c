package host

import (
	"context"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/tier"
)

func (h *Host) wrapSecret(ctx context.Context, s tier.Secret, value backstay.Secret, keys mover.KeyPolicy) (tier.Secret, string, error) {
	return s, "", fmt.Errorf("wrap")
}

func (b *secretBook) unwrapSecret(ctx context.Context, n neededSecret) (backstay.Secret, error) {
	return backstay.Secret{}, fmt.Errorf("unwrap")
}
