package client

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// VaultKeys says who can open a vault.
func (c *Client) VaultKeys(ctx context.Context, name backstay.VaultName) (backstay.VaultKeys, error) {
	return get[backstay.VaultKeys](ctx, c, api.Path(api.PathVaultKeys, string(name)))
}

// RotateVaultKeys lets what is sealed from now on be sealed with a new key.
func (c *Client) RotateVaultKeys(ctx context.Context, name backstay.VaultName, r api.RotateKeysRequest) (backstay.VaultKeys, error) {
	return post[backstay.VaultKeys](ctx, c, api.Path(api.PathVaultRotate, string(name)), r)
}

// AddVaultRecipient lets one recipient more open a vault.
func (c *Client) AddVaultRecipient(ctx context.Context, name backstay.VaultName, r api.AddRecipientRequest) (backstay.VaultKeys, error) {
	return post[backstay.VaultKeys](ctx, c, api.Path(api.PathVaultAddKey, string(name)), r)
}

// RemoveVaultRecipient takes a recipient out of a vault and rotates its keys.
func (c *Client) RemoveVaultRecipient(ctx context.Context, name backstay.VaultName, r api.RemoveRecipientRequest) (backstay.VaultKeys, error) {
	return post[backstay.VaultKeys](ctx, c, api.Path(api.PathVaultRemoveKey, string(name)), r)
}

// CheckEscrow proves from the storage units alone that a key opens a vault.
func (c *Client) CheckEscrow(ctx context.Context, name backstay.VaultName, r api.EscrowCheckRequest) (backstay.EscrowResult, error) {
	return post[backstay.EscrowResult](ctx, c, api.Path(api.PathVaultEscrow, string(name)), r)
}
