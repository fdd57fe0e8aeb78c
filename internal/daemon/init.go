package daemon

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"time"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/config"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
)

// untouched refuses to make a region where there is one, or where making it
// would take away what cannot be had again.
func untouched(result config.InitResult) error {
	if _, err := config.Load(result.ConfigPath); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return backstay.Errorf(backstay.CodeExists, "there is a configuration at %s already", result.ConfigPath).
			Becausef("a region was made here before").
			Do("start it with `backstay server --config %s`, or choose another --dir", result.ConfigPath)
	}
	if _, err := os.Lstat(result.ClientConfigPath); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return backstay.Errorf(backstay.CodeExists, "there is a client configuration at %s already", result.ClientConfigPath).
			Becausef("it may hold the only token of another region").
			Do("move it away, name another file in BACKSTAY_CONFIG, or choose another --dir")
	}
	return nil
}

// Init makes a new region: configuration, catalogue, keys, a vault and an
// owner's token. The configuration is written last: where there is one, or a
// catalogue with a vault, nothing is touched.
func (d *Daemon) Init(ctx context.Context, o config.InitOptions) (config.InitResult, error) {
	cfg, result := initPaths(o)
	if err := untouched(result); err != nil {
		return result, err
	}
	unlock, err := lockFolder(ctx, cfg.Data)
	if err != nil {
		return result, err
	}
	defer func() { _ = unlock() }()
	store, err := sqlite.Open(ctx, cfg.Catalogue())
	if err != nil {
		return result, err
	}
	defer func() { _ = store.Close() }()
	if made, err := store.Vaults.ListVaults(ctx); err != nil || len(made) > 0 {
		return result, errors.Join(err, backstay.Errorf(backstay.CodeExists, "the data folder %s has a vault already", cfg.Data).
			Becausef("an earlier init was cut off before it ended, or its configuration was removed").
			Do("remove the data folder and the storage units if nothing in them is needed, or choose another --dir"))
	}
	keys := keyfile.New(cfg.Keys())
	v := &vaults{units: units{hooks: d.Hooks}, catalog: store, keys: keys, now: time.Now, opened: map[backstay.VaultName]mover.VaultAccess{}}
	request := api.CreateVaultRequest{Name: result.VaultName}
	for _, u := range result.Units {
		request.Units = append(request.Units, api.NewUnit{URL: u})
	}
	if o.NoVault {
		result.VaultName, result.Units = "", nil
	} else if _, result.RecoveryKey, err = v.CreateVault(ctx, request); err != nil {
		return result, err
	}
	token, err := newToken(ctx, store, "owner", backstay.Owner)
	if err != nil {
		return result, err
	}
	if err := config.WriteClient(result.ClientConfigPath, config.Client{Server: "http://" + cfg.Listen, Token: token}); err != nil {
		return result, fmt.Errorf("write the client configuration: %w", err)
	}
	if err := config.Write(result.ConfigPath, cfg); err != nil {
		return result, fmt.Errorf("write the configuration: %w", err)
	}
	return result, nil
}

// initPaths decides where everything goes.
func initPaths(o config.InitOptions) (config.Config, config.InitResult) {
	cfg := config.Default()
	result := config.InitResult{ConfigPath: config.DefaultPath, ClientConfigPath: o.ClientConfig, VaultName: o.Vault, Units: o.Units}
	if o.Dir != "" {
		dir, err := filepath.Abs(o.Dir)
		if err != nil {
			dir = o.Dir
		}
		cfg.Data = filepath.Join(dir, "data")
		result.ConfigPath = filepath.Join(dir, "backstay.yaml")
		if result.ClientConfigPath == "" {
			result.ClientConfigPath = filepath.Join(dir, "client.yaml")
		}
	}
	if o.Listen != "" {
		cfg.Listen = o.Listen
	}
	if o.Region != "" {
		cfg.Region = o.Region
	}
	if o.Libvirt != "" {
		cfg.Hosts[0].Libvirt = o.Libvirt
	}
	if result.VaultName == "" {
		result.VaultName = "default"
	}
	if result.ClientConfigPath == "" {
		result.ClientConfigPath = config.ClientPath(os.Getenv)
	}
	if len(result.Units) == 0 {
		for i := range 3 {
			result.Units = append(result.Units, filepath.Join(cfg.Data, "vault", fmt.Sprintf("copy%d", i+1)))
		}
	}
	result.DataDir, result.Listen, result.Region = cfg.Data, cfg.Listen, cfg.Region
	return cfg, result
}

// newToken makes a token of 256 random bits; the catalogue keeps only its hash. The
// first owner may take files out of points: nobody else could give that right.
func newToken(ctx context.Context, c *catalog.Catalog, name string, role backstay.Role) (string, error) {
	secret := make([]byte, 32)
	if _, err := rand.Read(secret); err != nil {
		return "", fmt.Errorf("make a token: %w", err)
	}
	token := "bst_" + base64.RawURLEncoding.EncodeToString(secret)
	entry := backstay.Token{ID: ulid.Make().String(), Name: name, Role: role, Files: role == backstay.Owner, Created: time.Now().UTC()}
	if err := c.Tokens.PutToken(ctx, entry, sha256.Sum256([]byte(token))); err != nil {
		return "", fmt.Errorf("record the token: %w", err)
	}
	return token, nil
}
