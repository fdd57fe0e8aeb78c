package pairtest_test

import (
	"testing"

	"github.com/backstay/backstay/internal/pair/pairtest"
)

func TestTheFakeHoldsAsAHolderDoes(t *testing.T) {
	pairtest.Run(t, func(*testing.T) pairtest.Subject { return pairtest.Vault(needy()) })
}

// needy is a fake whose manifests need all objects of the suite's vault.
func needy() *pairtest.Fake {
	return &pairtest.Fake{Needs: func([]byte) (names []string) {
		for _, o := range pairtest.Vault(nil).Objects {
			names = append(names, o.Name)
		}
		return names
	}}
}
