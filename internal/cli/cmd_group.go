package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) groupCommands() *cobra.Command {
	create := &cobra.Command{
		Use: "create NAME VM VM…", Short: "Make a group of protected VMs whose points are taken at one instant",
		Long: "Make a group of protected VMs. A backup of the group takes a point of each of\nthem at one instant, or of none. A VM is in one group at most, and its schedule\ntakes points of the whole group.",
		Example: "  backstay group create shop web01 app01 db01\n" +
			"  backstay group create shop east/web01 west/db01 -o json",
		Args: atLeast(3, "NAME VM VM…"), ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.CreateGroup(ctx, api.CreateGroupRequest{Name: backstay.GroupName(args[0]), VMs: args[1:]})
			if err != nil {
				return err
			}
			return a.emit(g, func(w io.Writer) { fmt.Fprintf(w, "the group %s has %d VMs\n", g.Name, len(g.VMs)) })
		}),
	}
	list := &cobra.Command{
		Use: "list", Short: "List the groups", Example: "  backstay group list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			groups, err := c.Groups(ctx)
			if err != nil {
				return err
			}
			return a.emit(groups, func(w io.Writer) {
				row(w, "GROUP", "VMS")
				for _, g := range groups {
					row(w, g.Name, vmLabels(g.VMs))
				}
			})
		}),
	}
	show := &cobra.Command{
		Use: "show GROUP", Short: "Show one group", Example: "  backstay group show shop -o json",
		Args: exactly("GROUP"), ValidArgsFunction: a.completeGroups(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			g, err := c.Group(ctx, backstay.GroupName(args[0]))
			if err != nil {
				return err
			}
			return a.emit(g, func(w io.Writer) {
				row(w, "group", g.Name)
				row(w, "since", a.when(g.Since))
				for _, vm := range g.VMs {
					row(w, "VM", fmt.Sprintf("%s (%s)", vmLabel(vm), vm.UUID))
				}
			})
		}),
	}
	remove := &cobra.Command{
		Use: "delete GROUP", Short: "Forget a group; its VMs and their points stay", Example: "  backstay group delete shop --yes",
		Args: exactly("GROUP"), ValidArgsFunction: a.completeGroups(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if err := a.confirm("delete the group %s", args[0]); err != nil {
				return err
			}
			if err := c.DeleteGroup(ctx, backstay.GroupName(args[0])); err != nil {
				return err
			}
			a.note("group %s is deleted; its VMs stay protected", args[0])
			return nil
		}),
	}
	return a.group("group", "VMs whose points are taken at one instant", "  backstay group create shop web01 db01\n  backstay backup shop",
		create, list, show, a.yesFlag(remove))
}

func vmLabels(refs []backstay.VMRef) string {
	var labels []string
	for _, ref := range refs {
		labels = append(labels, vmLabel(ref))
	}
	return strings.Join(labels, ", ")
}
