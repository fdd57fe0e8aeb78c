package daemon

import (
	"context"
	"errors"
	"fmt"
	"strings"

	"github.com/google/uuid"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/engine/backup"
)

// imageVM is the UUID of the VM that image files of a name are backed up as: the
// same for each backup of the name in a region, so that its points are one series.
func imageVM(region, name string) backstay.VMID {
	return backstay.VMID(uuid.NewSHA1(uuid.NameSpaceURL, []byte("backstay:image:"+region+"/"+name)).String())
}

// PlanImage implements server.Planner. The answer's image has the formats and
// sizes that the files have.
func (e *engines) PlanImage(ctx context.Context, image backstay.ImageBackup) (api.BackupPlan, backstay.ImageBackup, error) {
	plan := api.BackupPlan{
		VM:          backstay.VMRef{UUID: imageVM(e.region.config.Region, image.Name), Host: image.Host, Name: image.Name},
		Consistency: backstay.CrashConsistent, ConsistencyReason: "image files that nobody writes to",
	}
	if err := e.nameIsFree(ctx, plan.VM); err != nil {
		return plan, image, err
	}
	m, err := e.region.hosts.mover(image.Host)
	if err != nil {
		return plan, image, err
	}
	if image.Disks, err = m.LookAt(ctx, image); err != nil {
		return plan, image, err
	}
	points, err := e.region.catalog.Points.ListPoints(ctx, plan.VM.UUID)
	if err != nil {
		return plan, image, fmt.Errorf("list points: %w", err)
	}
	item := backstay.ProtectedItem{Vault: image.Vault, Method: backstay.MethodImage}
	for _, d := range image.Disks {
		planned := backup.PlannedDisk{Target: d.Target, Size: d.Size, Format: d.Format, Included: true}
		disk := api.BackupDisk{Target: d.Target, Included: true, Mode: mode(points, item, planned)}
		if strings.HasPrefix(disk.Mode, "changed layers") {
			disk.Mode = "full compare: nobody records what changes in an image file"
		}
		plan.Disks = append(plan.Disks, disk)
		plan.Notes = append(plan.Notes, fmt.Sprintf("%s is %s (%s, %d bytes)", d.Target, d.Path, d.Format, d.Size))
	}
	return plan, image, nil
}

// nameIsFree refuses a name that a VM of the host has, unless its images were
// backed up under it before: the name would mean two VMs.
func (e *engines) nameIsFree(ctx context.Context, of backstay.VMRef) error {
	vms, err := e.region.catalog.VMs.ListVMs(ctx)
	if err != nil {
		return fmt.Errorf("list VMs: %w", err)
	}
	points, err := e.region.catalog.Points.ListPoints(ctx, of.UUID)
	if err != nil && !errors.Is(err, catalog.ErrNotFound) {
		return fmt.Errorf("list points: %w", err)
	}
	for _, vm := range vms {
		if vm.Host == of.Host && vm.Name == of.Name && len(points) == 0 {
			return backstay.Errorf(backstay.CodeExists, "the VM %s is there already", target(of)).
				Becausef("the name would mean two VMs").Do("choose another --as, or back up that VM itself: `backstay backup %s`", target(of))
		}
	}
	return nil
}
