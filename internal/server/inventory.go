package server

import (
	"cmp"
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type hostInput struct {
	Host string `path:"host"`
}

type vmInput struct {
	VM string `path:"vm" doc:"UUID, NAME or HOST/NAME"`
}

func (s *server) registerInventory() {
	add(s, "listHosts", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Host], error) {
		hosts, err := s.Catalog.Hosts.ListHosts(ctx)
		return &answer[[]backstay.Host]{hosts}, err
	})
	add(s, "getHost", func(ctx context.Context, in *hostInput) (*answer[backstay.Host], error) {
		h, err := s.Catalog.Hosts.Host(ctx, backstay.HostName(in.Host))
		return &answer[backstay.Host]{h}, missing(err, backstay.CodeUnknownHost, "host", in.Host)
	})
	add(s, "listVMs", s.listVMs)
	add(s, "getVM", s.getVM)
	add(s, "listItems", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.ProtectedItem], error) {
		items, err := s.items(ctx)
		return &answer[[]backstay.ProtectedItem]{items}, err
	})
}

// items are all protected items, with when each is due next.
func (s *server) items(ctx context.Context) ([]backstay.ProtectedItem, error) {
	items, err := s.Catalog.Items.ListItems(ctx)
	if err != nil {
		return nil, err
	}
	each := make([]*backstay.ProtectedItem, len(items))
	for i := range items {
		each[i] = &items[i]
	}
	return items, s.fillDue(ctx, each...)
}

func (s *server) listVMs(ctx context.Context, _ *struct{}) (*answer[[]api.VMDetail], error) {
	vms, err := s.Catalog.VMs.ListVMs(ctx)
	if err != nil {
		return nil, err
	}
	items, err := s.items(ctx)
	if err != nil {
		return nil, err
	}
	byID := map[backstay.VMID]*backstay.ProtectedItem{}
	for i := range items {
		byID[items[i].VM.UUID] = &items[i]
	}
	out := make([]api.VMDetail, len(vms))
	for i, vm := range vms {
		out[i] = api.VMDetail{VM: vm, Protection: byID[vm.ID]}
	}
	slices.SortFunc(out, func(a, b api.VMDetail) int {
		return cmp.Or(cmp.Compare(a.Host, b.Host), cmp.Compare(a.Name, b.Name))
	})
	return &answer[[]api.VMDetail]{out}, nil
}

func (s *server) getVM(ctx context.Context, in *vmInput) (*answer[api.VMDetail], error) {
	vm, err := s.vm(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	item, err := s.item(ctx, vm.ID)
	if err == nil && item != nil {
		err = s.fillDue(ctx, item)
	}
	return &answer[api.VMDetail]{api.VMDetail{VM: vm, Protection: item}}, err
}
