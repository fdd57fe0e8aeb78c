package servertest

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

// drills plans without a host: of each VM its newest point.
type drills struct{ catalog *catalog.Catalog }

func (d drills) PlanDrill(ctx context.Context, plan backstay.DrillPlan) (backstay.DrillParams, error) {
	params := backstay.DrillParams{Plan: plan, Host: "local", Network: "backstay-drill-test"}
	for _, vm := range plan.VMs {
		points, err := d.catalog.Points.ListPoints(ctx, vm.UUID)
		if err != nil {
			return params, err
		}
		points = slices.DeleteFunc(points, func(p backstay.RecoveryPoint) bool {
			return !p.Has(backstay.VaultTier) && plan.From != backstay.FromSnapshot || vm.PointID != "" && p.ID != vm.PointID
		})
		if len(points) == 0 {
			return params, backstay.Errorf(backstay.CodeUnknownPoint, "VM %s has no recovery point for a drill", vm.VM).Becausef("it has none")
		}
		p := points[len(points)-1]
		name := p.VM.Name + "-drill-test"
		params.VMs = append(params.VMs, backstay.DrilledVM{Source: p.VM, Name: name, Point: p.ID, PointTime: p.Time, Tier: backstay.VaultTier, Vault: p.Vault,
			Disks: []backstay.DrilledDisk{}, Probes: []backstay.DrillProbeResult{}})
		params.Restores = append(params.Restores, backstay.RestorePlan{Kind: backstay.CreateVM, Point: p.ID, Tier: backstay.VaultTier, Vault: p.Vault,
			Host: "local", Name: name, UUID: "5d3f6a60-0000-4000-8000-00000000d111", Live: true})
	}
	return params, nil
}
