package backup

import (
	"context"
	"errors"
	"fmt"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/mover"
)

// ImageTasks are the steps of a backup of image files.
var ImageTasks = []string{"plan", "transfer", "validate"}

// images makes a point of image files that belong to no VM, in the vault alone,
// or none. A later life goes on with the packs that are durable.
func (b *backupRun) images(ctx context.Context) error {
	image := *b.params.Image
	if len(b.state.Members) == 0 {
		b.state.Members = []*member{{VM: b.params.VM}}
	}
	m := b.state.Members[0]
	m.item = backstay.ProtectedItem{
		VM:    backstay.VMRef{UUID: b.params.VM, Host: image.Host, Name: image.Name},
		Vault: image.Vault, Policy: image.Policy, Method: backstay.MethodImage, Excluded: []backstay.DiskTarget{},
	}
	var err error
	if m.mover, err = b.Mover(image.Host); err != nil {
		return err
	}
	if err := b.run.Step(ctx, "plan", func(context.Context) error { return b.planImages(m, image) }); err != nil {
		return err
	}
	_, err = mover.Phases(ctx, b.run, ImageTasks[1:],
		func(ctx context.Context, progress mover.Progress) (mover.Pulled, error) {
			request, err := b.importRequest(ctx, m, image)
			if err != nil {
				return mover.Pulled{}, err
			}
			done, err := m.mover.Import(ctx, request, func(r mover.Report) {
				progress(r)
				m.keepPack(b, r)
			})
			if err != nil {
				return done, err
			}
			return done, b.recordImport(context.WithoutCancel(ctx), m, done)
		}, nil)
	return err
}

func (b *backupRun) planImages(m *member, image backstay.ImageBackup) error {
	m.Point, m.Method, m.Policy = b.NewPoint(), backstay.MethodImage, image.Policy
	m.Plan = Plan{
		VM: m.item.VM, Vault: image.Vault, Consistency: backstay.CrashConsistent, Reason: "image files",
	}
	for _, d := range image.Disks {
		m.Plan.Disks = append(m.Plan.Disks, PlannedDisk{Target: d.Target, Size: d.Size, Format: d.Format, Included: true})
	}
	return b.run.Save(b.state)
}

func (b *backupRun) importRequest(ctx context.Context, m *member, image backstay.ImageBackup) (mover.ImportRequest, error) {
	access, err := b.Vault(ctx, m.item.Vault)
	if err != nil {
		return mover.ImportRequest{}, err
	}
	now := b.Now()
	parent, err := b.newestInVault(ctx, backstay.RecoveryPoint{
		ID: m.Point, VM: backstay.VMRef{UUID: m.VM}, Vault: m.item.Vault, Time: now,
	})
	if err != nil {
		return mover.ImportRequest{}, err
	}
	health, err := b.Catalog.Health.VaultHealth(ctx, m.item.Vault)
	if err != nil {
		return mover.ImportRequest{}, err
	}
	r := mover.ImportRequest{
		Job: b.run.Job().ID, Point: m.Point, VM: m.VM, Image: image, Time: now,
		Vault: access, Parent: parent, Packs: m.Packs, Avoid: health.LostPacks(),
	}
	if b.params.Retain > 0 {
		expires := now.Add(time.Duration(b.params.Retain))
		r.Expires = &expires
	}
	return r, nil
}

// recordImport enters a point that its vault has, and with a policy the item by
// which the policy decides how long. Without one the points are kept.
func (b *backupRun) recordImport(ctx context.Context, m *member, done mover.Pulled) error {
	if m.item.Policy != "" {
		_, err := b.Catalog.Items.Item(ctx, m.VM)
		if errors.Is(err, catalog.ErrNotFound) {
			m.item.Since = b.run.Job().Created
			err = b.Catalog.Items.PutItem(ctx, m.item)
		} else if err == nil {
			err = b.Catalog.Items.ChangeItem(ctx, m.VM, func(i *backstay.ProtectedItem) error {
				i.Policy, i.VM = m.item.Policy, m.item.VM
				return nil
			})
		}
		if err != nil {
			return fmt.Errorf("record the policy of %s: %w", m.item.VM.Name, err)
		}
	}
	return b.recordPull(ctx, m, done)
}
