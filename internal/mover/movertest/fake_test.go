package movertest_test

import (
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
)

// TestFakeKeepsThePortsRules holds the fake to what the real mover must do.
func TestFakeKeepsThePortsRules(t *testing.T) {
	movertest.Run(t, func(*testing.T) movertest.Subject {
		key := []byte("a-vault-key-of-thirty-two-bytes!")
		f := movertest.NewFake(key)
		return movertest.Subject{
			Mover: f, VM: f.Machine.ID, Folder: "/restored", Logs: func() string { return "" },
			Vault: mover.VaultAccess{Name: "v", Key: backstay.NewSecret(key)},
		}
	})
}
