package restore

import (
	"context"
	"errors"
	"fmt"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// hostFor says which host restores: the one that was asked for, that of the VM whose
// disks are replaced, or the point's own. The host of a replica's point is in another
// region, which is not asked anything: then it is the only host of this one, or the
// user says which.
func (r *Runner) hostFor(ctx context.Context, request backstay.RestoreRequest, p backstay.RecoveryPoint) (backstay.HostName, error) {
	of, away := p.Vault.Origin()
	switch {
	case away && request.Kind == backstay.ReplaceDisks && request.VM == "":
		return "", backstay.Errorf(backstay.CodeVMMissing, "the disks of %s/%s cannot be replaced here", p.VM.Host, p.VM.Name).
			Becausef("the point is from the replica of region %s's vault %s, and its VM is over there", of.Region, of.Vault).
			Do("make a new VM of it with `backstay restore create-vm %s --name NEW`, or name a VM of this region that shall get its disks: --vm VM", p.ID)
	case request.Host != "":
		return request.Host, nil
	case request.VM != "":
		return r.hostOf(ctx, request.VM)
	case !away:
		return p.VM.Host, nil
	}
	return r.onlyHost(ctx, of, p)
}

func (r *Runner) hostOf(ctx context.Context, id backstay.VMID) (backstay.HostName, error) {
	vm, err := r.Catalog.VMs.VM(ctx, id)
	if errors.Is(err, catalog.ErrNotFound) {
		return "", backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", id).Becausef("no host of this region has it")
	}
	if err != nil {
		return "", fmt.Errorf("read VM %s: %w", id, err)
	}
	return vm.Host, nil
}

func (r *Runner) onlyHost(ctx context.Context, of backstay.VaultOrigin, p backstay.RecoveryPoint) (backstay.HostName, error) {
	hosts, err := r.Catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return "", fmt.Errorf("list hosts: %w", err)
	}
	if len(hosts) == 1 {
		return hosts[0].Name, nil
	}
	var names []string
	for _, h := range hosts {
		names = append(names, string(h.Name))
	}
	e := backstay.Errorf(backstay.CodePreflight, "which host shall get the restore is not said").
		Becausef("the point is of region %s, whose host %s is not one of this region (there is: %s)", of.Region, p.VM.Host, listOrNone(names))
	if len(names) == 0 {
		return "", e.Do("enroll a host, or start the mover of this region's server")
	}
	return "", e.Do("say --host, with one of %s", strings.Join(names, ", "))
}
