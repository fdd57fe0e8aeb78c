package daemon

import (
	"context"
	"fmt"
	"os"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/config"
	"github.com/backstay/backstay/internal/keyring"
	"github.com/backstay/backstay/internal/keyring/folder"
	"github.com/backstay/backstay/internal/keyring/transit"
	"github.com/backstay/backstay/internal/mover"
)

// openKeyService opens an outside key service with the access that the server gave.
func openKeyService(s mover.KeyService) (keyring.Service, error) {
	switch s.Kind {
	case config.KeyFolder:
		return folder.New(s.URL, s.Key)
	case config.KeyTransit:
		return transit.New(transit.Options{URL: s.URL, Mount: s.Mount, Key: s.Key, Credential: s.Credential, CA: s.CA})
	}
	return nil, fmt.Errorf("a key service of kind %q is not known", s.Kind)
}

// keyServices are those of the configuration, with their credentials as they are
// now. One whose files cannot be read is passed on without, and refuses.
func (r *region) keyServices() []mover.KeyService {
	var all []mover.KeyService
	for _, c := range r.config.KeyServices {
		s := mover.KeyService{Name: c.Name, Kind: c.Kind, URL: c.URL, Mount: c.Mount, Key: c.Key}
		if c.Kind == config.KeyFolder {
			s.URL = c.Dir
		}
		if c.CredentialFile != "" {
			s.Credential = backstay.NewSecret(r.readFor(c.Name, c.CredentialFile))
		}
		if c.CAFile != "" {
			s.CA = r.readFor(c.Name, c.CAFile)
		}
		all = append(all, s)
	}
	return all
}

func (r *region) readFor(service, path string) []byte {
	data, err := os.ReadFile(path)
	if err != nil {
		r.log.Warn("a file of a key service cannot be read", "service", service, "error", err)
	}
	return data
}

// keyPolicy says how the points of an item hold its VM's secrets; nil for by value.
// Without the vault's recipients nothing is kept for the recovery key, which the
// backup then warns of.
func (r *region) keyPolicy(ctx context.Context, item backstay.ProtectedItem) (*mover.KeyPolicy, error) {
	if item.KeyService == "" {
		return nil, nil
	}
	services := r.keyServices()
	at := slices.IndexFunc(services, func(s mover.KeyService) bool { return s.Name == item.KeyService })
	if at < 0 {
		return nil, backstay.Errorf(backstay.CodeKeyServiceAway, "key service %s is not in the server's configuration", item.KeyService).
			Becausef("%s is protected with it", item.VM.Name).Do("put it back under keyServices, or protect the VM with another --key-service")
	}
	escrow, err := r.vaults.escrowOf(ctx, item.Vault)
	if err != nil {
		r.log.Warn("the recovery recipients of a vault cannot be read", "vault", item.Vault, "error", err)
	}
	return &mover.KeyPolicy{Service: services[at], Escrow: escrow}, nil
}

// escrowOf lists the recovery recipients of a vault that have a public key: as they
// are now or, while the vault cannot be read, as they were last.
func (v *vaults) escrowOf(ctx context.Context, name backstay.VaultName) ([]string, error) {
	opened, err := v.open(ctx, name)
	if err != nil {
		v.mu.Lock()
		defer v.mu.Unlock()
		if known, ok := v.recovery[name]; ok {
			return known, nil
		}
		return nil, err
	}
	defer opened.Close()
	var all []string
	for _, r := range opened.Recipients() {
		if r.Purpose == backstay.ForRecovery && r.Recipient != "" {
			all = append(all, r.Recipient)
		}
	}
	v.mu.Lock()
	defer v.mu.Unlock()
	if v.recovery == nil {
		v.recovery = map[backstay.VaultName][]string{}
	}
	v.recovery[name] = all
	return all, nil
}
