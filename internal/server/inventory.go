package server

import (
	"cmp"
	"context"
	"fmt"
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
	add(s, "listRooms", func(ctx context.Context, in *hostInput) (*answer[[]backstay.Room], error) {
		_, err := s.Catalog.Hosts.Host(ctx, backstay.HostName(in.Host))
		return &answer[[]backstay.Room]{append([]backstay.Room{}, s.Layers.Rooms(backstay.HostName(in.Host))...)},
			missing(err, backstay.CodeUnknownHost, "host", in.Host)
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
	groups, err := s.Catalog.Groups.ListGroups(ctx)
	if err != nil {
		return nil, err
	}
	out := make([]api.VMDetail, len(vms))
	for i, vm := range vms {
		out[i] = s.detail(vm, byID[vm.ID], groups)
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
	if err != nil {
		return nil, err
	}
	groups, err := s.Catalog.Groups.ListGroups(ctx)
	return &answer[api.VMDetail]{s.detail(vm, item, groups)}, err
}

// detail is a VM with what its protection means for each disk; of a VM that is
// not protected, with what a protection could.
func (s *server) detail(vm backstay.VM, item *backstay.ProtectedItem, groups []backstay.Group) api.VMDetail {
	out := api.VMDetail{VM: vm, Protection: item, Warnings: s.warnings(vm)}
	if item == nil {
		item = &backstay.ProtectedItem{}
	}
	for _, d := range vm.Disks {
		out.Verdicts = append(out.Verdicts, item.Judge(d))
	}
	for _, g := range groups {
		if slices.ContainsFunc(g.VMs, func(ref backstay.VMRef) bool { return ref.UUID == vm.ID }) {
			out.Group = g.Name
		}
	}
	return out
}

// warnings says what threatens a VM: too little room beside its disks.
func (s *server) warnings(vm backstay.VM) []string {
	warnings := []string{}
	for _, room := range s.Layers.Rooms(vm.Host) {
		i := slices.IndexFunc(room.VMs, func(on backstay.RoomVM) bool { return on.VM.UUID == vm.ID })
		if i < 0 {
			continue
		}
		if room.VMs[i].Stalled {
			warnings = append(warnings, fmt.Sprintf("it stands still since a request to a disk failed; %s has %d MiB free", room.Folder, room.Free>>20))
		}
		if room.Warning != "" {
			warnings = append(warnings, room.Warning)
		}
	}
	return warnings
}
