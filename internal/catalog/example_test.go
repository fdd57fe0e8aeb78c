package catalog_test

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
)

func ExampleCatalog() {
	dir, err := os.MkdirTemp("", "catalog")
	if err != nil {
		panic(err)
	}
	defer os.RemoveAll(dir)
	ctx := context.Background()
	c, err := sqlite.Open(ctx, filepath.Join(dir, "catalog.db"))
	if err != nil {
		panic(err)
	}
	defer c.Close()
	policy := backstay.Policy{Name: "daily", Vault: backstay.VaultKeep{Daily: 7}}
	fmt.Println(c.Policies.CreatePolicy(ctx, policy))
	fmt.Println(errors.Is(c.Policies.CreatePolicy(ctx, policy), catalog.ErrExists))
	kept, err := c.Policies.Policy(ctx, "daily")
	fmt.Println(kept.Vault.Daily, err)
	// Output:
	// <nil>
	// true
	// 7 <nil>
}
