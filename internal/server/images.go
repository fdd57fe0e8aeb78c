package server

import (
	"context"
	"net/http"
	"slices"
	"strings"
	"unicode"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// startImageBackup backs up image files that belong to no VM of a host.
func (s *server) startImageBackup(ctx context.Context, r api.BackupRequest) (*started[api.BackupResponse], error) {
	image := *r.Image
	callOf(ctx).target = image.Name
	if err := checkImage(r); err != nil {
		return nil, err
	}
	if err := s.placeImage(ctx, &image); err != nil {
		return nil, err
	}
	plan, image, err := s.Planner.PlanImage(ctx, image)
	if err != nil {
		return nil, err
	}
	callOf(ctx).target = label(plan.VM)
	if err := s.imageVault(ctx, plan.VM.UUID, &image); err != nil {
		return nil, err
	}
	out := &started[api.BackupResponse]{Status: http.StatusOK}
	out.Body.Plan, out.Body.Plans = plan, []api.BackupPlan{plan}
	if r.DryRun {
		return out, nil
	}
	job, err := s.submit(ctx, JobRequest{
		Kind: backstay.JobBackup, Target: label(plan.VM), Alone: true,
		VMs: []backstay.VMID{plan.VM.UUID}, Host: image.Host, Vault: image.Vault,
		Tasks:  []string{"plan", "transfer", "validate"},
		Params: backstay.BackupParams{VM: plan.VM.UUID, Retain: r.Retain, Image: &image},
	})
	if err != nil {
		return nil, err
	}
	out.Status, out.Body.Job = http.StatusAccepted, &job
	return out, nil
}

// longestImageName leaves room in a file's name for a disk's target and format.
const longestImageName = 200

// checkImage refuses what makes no sense as a VM.
func checkImage(r api.BackupRequest) error {
	image, usage := r.Image, func(format string, args ...any) error {
		return backstay.Errorf(backstay.CodeUsage, "these image files cannot be backed up").Becausef(format, args...)
	}
	name := image.Name
	switch {
	case r.VM != "":
		return usage("a VM %q is named beside them", r.VM)
	case r.Tier == backstay.SnapshotTier:
		return usage("image files have no snapshot tier: their points are in a vault")
	case r.Consistency != "" && r.Consistency != backstay.CrashConsistent:
		return usage("nobody can ask a guest that is not there for a %s-consistent state", r.Consistency)
	case name == "" || len(name) > longestImageName || strings.ContainsAny(name, "/@") || strings.HasPrefix(name, ".") || strings.ContainsFunc(name, unicode.IsControl):
		return usage("%q cannot be the name of a VM: it has no slash, @ or control character, does not start with a dot, and has 1 to %d bytes", name, longestImageName)
	case image.Firmware != "" && image.Firmware != backstay.BIOS && image.Firmware != backstay.UEFI:
		return usage("%q is no firmware; there are bios and uefi", image.Firmware)
	case len(image.Disks) == 0:
		return usage("no file is named")
	}
	var seen []backstay.DiskTarget
	for _, d := range image.Disks {
		if !imageTarget(d.Target) {
			return usage("%q is no name of a disk; vda, vdb … are virtio disks, sda, sdb … are SATA disks", d.Target)
		}
		if slices.Contains(seen, d.Target) {
			return usage("two files are named as disk %s", d.Target)
		}
		seen = append(seen, d.Target)
	}
	return nil
}

func imageTarget(t backstay.DiskTarget) bool {
	if len(t) != 3 || !strings.HasPrefix(string(t), "vd") && !strings.HasPrefix(string(t), "sd") {
		return false
	}
	return t[2] >= 'a' && t[2] <= 'z'
}

// placeImage finds the host, and sees to it that who is no owner reads nothing but
// what lies where disks lie: any file of a host can be named as a raw disk.
func (s *server) placeImage(ctx context.Context, image *backstay.ImageBackup) error {
	hosts, err := s.Catalog.Hosts.ListHosts(ctx)
	if err != nil {
		return err
	}
	if image.Host == "" && len(hosts) == 1 {
		image.Host = hosts[0].Name
	}
	at := slices.IndexFunc(hosts, func(h backstay.Host) bool { return h.Name == image.Host })
	switch {
	case image.Host == "":
		return backstay.Errorf(backstay.CodeUsage, "it is not said on which host the image files are").Becausef("the region has %d hosts", len(hosts)).Do("give --host")
	case at < 0:
		return backstay.Errorf(backstay.CodeUnknownHost, "there is no host %q", image.Host).Becausef("the catalogue of this region does not have it")
	}
	image.Folders, image.Disks = nil, slices.Clone(image.Disks)
	for i := range image.Disks {
		image.Disks[i].Size = 0 // is looked at
	}
	if callOf(ctx).who.Role.Covers(backstay.Owner) {
		return nil
	}
	for _, p := range hosts[at].Facts.Pools {
		image.Folders = append(image.Folders, p.Path)
	}
	if len(image.Folders) == 0 {
		return backstay.Errorf(backstay.CodeNotAllowed, "image files of host %s may not be read with this token", image.Host).
			Becausef("the host has no pool, and other folders are an owner's right").Do("use a token of an owner")
	}
	return nil
}

// imageVault chooses the vault: where the name's points are, the one that is
// named, or the only one.
func (s *server) imageVault(ctx context.Context, id backstay.VMID, image *backstay.ImageBackup) error {
	points, err := s.Catalog.Points.ListPoints(ctx, id)
	if err != nil {
		return err
	}
	points = backstay.OwnPoints(points)
	vaults, err := s.Catalog.Vaults.ListVaults(ctx)
	if err == nil {
		err = ownVault(image.Vault)
	}
	if err != nil {
		return err
	}
	vaults = slices.DeleteFunc(vaults, func(v backstay.Vault) bool { return v.Origin != nil })
	switch {
	case image.Vault != "":
	case len(points) > 0:
		image.Vault = points[len(points)-1].Vault
	case len(vaults) == 1:
		image.Vault = vaults[0].Name
	default:
		return backstay.Errorf(backstay.CodeUsage, "it is not said which vault gets the image files").Becausef("the region has %d vaults", len(vaults)).Do("give --vault")
	}
	if !slices.ContainsFunc(vaults, func(v backstay.Vault) bool { return v.Name == image.Vault }) {
		return backstay.Errorf(backstay.CodeUnknownVault, "there is no vault %q", image.Vault).Becausef("the catalogue of this region does not have it")
	}
	item, err := s.item(ctx, id)
	if err != nil {
		return err
	}
	if item != nil {
		if image.Policy == "" {
			image.Policy = item.Policy
		}
		if item.Vault != image.Vault {
			return backstay.Errorf(backstay.CodeConflict, "the points of %s are in vault %s", image.Name, item.Vault).
				Becausef("vault %s was named", image.Vault).Do("leave out --vault, or unprotect %s first", image.Name)
		}
	}
	if image.Policy == "" {
		return nil
	}
	_, err = s.Catalog.Policies.Policy(ctx, image.Policy)
	return missing(err, backstay.CodeUnknownPolicy, "policy", image.Policy)
}
