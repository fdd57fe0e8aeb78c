package server

import (
	"context"
	"errors"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
)

// groupPrefix says of a name that it is a group's: group:NAME.
const groupPrefix = "group:"

func groupLabel(name backstay.GroupName) string { return groupPrefix + string(name) }

type groupInput struct {
	Group string `path:"group"`
}

type createGroupInput struct{ Body api.CreateGroupRequest }

func (s *server) registerGroups() {
	add(s, "listGroups", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Group], error) {
		groups, err := s.Catalog.Groups.ListGroups(ctx)
		return &answer[[]backstay.Group]{groups}, err
	})
	add(s, "getGroup", func(ctx context.Context, in *groupInput) (*answer[backstay.Group], error) {
		g, err := s.group(ctx, in.Group)
		return &answer[backstay.Group]{g}, err
	})
	add(s, "createGroup", s.createGroup)
	add(s, "deleteGroup", s.deleteGroup)
}

// group finds a group by NAME or group:NAME.
func (s *server) group(ctx context.Context, name string) (backstay.Group, error) {
	plain := backstay.GroupName(strings.TrimPrefix(name, groupPrefix))
	callOf(ctx).target = groupLabel(plain)
	g, err := s.Catalog.Groups.Group(ctx, plain)
	return g, missing(err, backstay.CodeUnknownGroup, "group", plain)
}

// createGroup makes a group of VMs that are protected: else no point of all of
// them could be taken.
func (s *server) createGroup(ctx context.Context, in *createGroupInput) (*answer[backstay.Group], error) {
	g := backstay.Group{Name: in.Body.Name, Since: s.Now().UTC()}
	for _, name := range in.Body.VMs {
		vm, err := s.vm(ctx, name)
		if err != nil {
			return nil, err
		}
		item, err := s.item(ctx, vm.ID)
		if err != nil {
			return nil, err
		}
		if item == nil {
			return nil, backstay.Errorf(backstay.CodeNotProtected, "the VM %s is not protected", label(vm.Ref())).
				Becausef("the points of a group are taken of all its VMs or of none")
		}
		if item.Method == backstay.MethodPull {
			return nil, backstay.Errorf(backstay.CodeConflict, "the VM %s cannot be in a group", label(vm.Ref())).
				Becausef("it is protected by pull, whose instant cannot be shared with other VMs").
				Do("protect it with --method layers first")
		}
		if slices.Contains(g.VMs, vm.Ref()) {
			return nil, backstay.Errorf(backstay.CodeUsage, "the VM %s is named twice", label(vm.Ref())).
				Becausef("a group has each VM once").Do("name each VM once")
		}
		g.VMs = append(g.VMs, vm.Ref())
	}
	callOf(ctx).target = groupLabel(g.Name)
	err := s.Catalog.Groups.CreateGroup(ctx, g)
	if errors.Is(err, catalog.ErrExists) {
		return nil, s.taken(ctx, g)
	}
	return &answer[backstay.Group]{g}, err
}

// taken says why a group cannot be made.
func (s *server) taken(ctx context.Context, g backstay.Group) error {
	for _, vm := range g.VMs {
		other, err := s.Catalog.Groups.GroupOf(ctx, vm.UUID)
		if err == nil && other.Name != g.Name {
			return backstay.Errorf(backstay.CodeConflict, "the VM %s is in the group %s", label(vm), other.Name).
				Becausef("a VM is in one group at most, since a backup of it is one of its whole group").
				Do("delete that group first: `backstay group delete %s`", other.Name)
		}
	}
	return backstay.Errorf(backstay.CodeExists, "there is a group %q already", g.Name).Becausef("names of groups are unique in a region")
}

func (s *server) deleteGroup(ctx context.Context, in *groupInput) (*struct{}, error) {
	g, err := s.group(ctx, in.Group)
	if err != nil {
		return nil, err
	}
	if err := s.idle(ctx, groupLabel(g.Name)); err != nil {
		return nil, err
	}
	err = s.Catalog.Groups.DeleteGroup(ctx, g.Name)
	return nil, missing(err, backstay.CodeUnknownGroup, "group", g.Name)
}

// noGroup refuses what would leave a group without one of its VMs.
func (s *server) noGroup(ctx context.Context, vm backstay.VMRef) error {
	g, err := s.Catalog.Groups.GroupOf(ctx, vm.UUID)
	if errors.Is(err, catalog.ErrNotFound) {
		return nil
	}
	if err != nil {
		return err
	}
	return backstay.Errorf(backstay.CodeConflict, "the VM %s is in the group %s", label(vm), g.Name).
		Becausef("the points of a group are taken of all its VMs or of none").
		Do("delete the group first: `backstay group delete %s`", g.Name)
}

// subject is what a backup is asked of: one VM, or all of a group.
type subject struct {
	group backstay.GroupName
	vms   []backstay.VMRef
}

// backupSubject finds what a name means: a VM, or a group by its NAME or
// group:NAME. A name that means both is refused.
func (s *server) backupSubject(ctx context.Context, name string) (subject, error) {
	g, err := s.Catalog.Groups.Group(ctx, backstay.GroupName(strings.TrimPrefix(name, groupPrefix)))
	isGroup := err == nil
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return subject{}, err
	}
	if strings.HasPrefix(name, groupPrefix) {
		g, err := s.group(ctx, name)
		return subject{g.Name, g.VMs}, err
	}
	vm, err := s.vm(ctx, name)
	switch {
	case isGroup && (err == nil || backstay.IsCode(err, backstay.CodeAmbiguousVM)):
		e := backstay.Errorf(backstay.CodeAmbiguousVM, "the name %q means a VM and a group", name).
			Becausef("it could be the group %s or a VM of that name", groupLabel(g.Name))
		if err == nil {
			return subject{}, e.Do("say %s or %s", groupLabel(g.Name), label(vm.Ref()))
		}
		return subject{}, e.Do("say %s, or HOST/NAME for a VM", groupLabel(g.Name))
	case isGroup:
		callOf(ctx).target = groupLabel(g.Name)
		return subject{g.Name, g.VMs}, nil
	}
	return subject{vms: []backstay.VMRef{vm.Ref()}}, err
}
