package restore

import (
	"context"
	"fmt"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// luksHeader is what a LUKS volume needs beside its content, in bytes.
const luksHeader = 16 << 20

func (r *Runner) services() []mover.KeyService {
	if r.Services == nil {
		return nil
	}
	return r.Services()
}

func (r *Runner) keysOf(ctx context.Context, item backstay.ProtectedItem) (*mover.KeyPolicy, error) {
	if r.Keys == nil {
		return nil, nil
	}
	return r.Keys(ctx, item)
}

// needsKeys tells whether a point needs secrets of the host. A point of an older
// release tells it by its disks alone.
func needsKeys(p backstay.RecoveryPoint) bool {
	return p.Encrypted.Host || len(p.Encrypted.Secrets) > 0 ||
		slices.ContainsFunc(p.Disks, func(d backstay.PointDisk) bool { return d.Included && p.Shape.SecretOf(d.Target) != "" })
}

// fillSecrets lets each disk that is made be encrypted as the point's is: by the
// scheme of the point, whatever the VM has now. A layer on the present disk is
// encrypted as that is; where the two differ the disk is written whole, or the
// plain content of one would lie in the other's layer.
func fillSecrets(f Facts, plan *backstay.RestorePlan) {
	for i := range plan.Disks {
		d := &plan.Disks[i]
		if d.Path == "" {
			continue
		}
		d.Secret = f.Point.Shape.SecretOf(d.Target)
		for _, vm := range f.VMs {
			if d.Difference && vm.ID == plan.UUID && vm.SecretOf(d.Target) != d.Secret {
				d.Difference = false
			}
		}
	}
}

// plainForms are formats of files in which a disk cannot be encrypted.
var plainForms = []string{"vmdk", "vhdx", "vpc", "vdi"}

// checkForms refuses to write an encrypted disk to where it would be plain.
func checkForms(plan backstay.RestorePlan) (checks []backstay.Check) {
	for _, d := range plan.Disks {
		switch {
		case d.Secret == "":
		case slices.Contains(plainForms, d.Format):
			checks = append(checks, refuseAs("secret", backstay.Errorf(backstay.CodeEncrypted, "disk %s cannot be written as %s", d.Target, d.Format).
				Becausef("it was encrypted on the host, and a file of that format would be plain").Do("say --format qcow2 or raw")))
		case d.Device:
			checks = append(checks, refuseAs("secret", backstay.Errorf(backstay.CodeEncrypted, "disk %s cannot be written to a block device", d.Target).
				Becausef("it was encrypted on the host, and backstay makes LUKS in files alone").Do("name a folder or a pool with --to")))
		}
	}
	return checks
}

// askSecrets asks the host about the secrets that the point needs. What cannot be
// found out is a check that refuses, and no error. A tier that cannot be read has
// its own check.
func (r *Runner) askSecrets(ctx context.Context, m mover.Mover, request backstay.RestoreRequest, facts *Facts) error {
	tier, _ := ChooseTier(request, facts.Point, facts.Host.Name)
	if !needsKeys(facts.Point) || !facts.Point.Has(tier) {
		return nil
	}
	ask := mover.SecretsRequest{Point: facts.Point.ID, Tier: tier, Services: r.services()}
	if tier == backstay.VaultTier {
		if facts.VaultProblem != "" {
			return nil
		}
		access, err := r.Vault(ctx, facts.Point.Vault)
		if err != nil {
			facts.SecretProblem = err
			return nil
		}
		ask.Vault = &access
	} else if facts.Host.Name != facts.Point.VM.Host {
		return nil
	}
	facts.Secrets, facts.SecretProblem = m.SecretStates(ctx, ask)
	if facts.SecretProblem != nil && ctx.Err() != nil {
		return fmt.Errorf("ask for the secrets of the point: %w", facts.SecretProblem)
	}
	return nil
}

// checkKeys says of each secret that the plan needs whether the host has it, or
// will. That of a TPM counts if the plan has one.
func checkKeys(f Facts, plan backstay.RestorePlan) []backstay.Check {
	needed := func(uuid string) bool {
		return slices.ContainsFunc(plan.Disks, func(d backstay.PlannedDisk) bool { return d.Secret == uuid })
	}
	if f.SecretProblem != nil {
		return []backstay.Check{refuseAs("secret", backstay.AsError(f.SecretProblem))}
	}
	checks := checkForms(plan)
	for _, s := range f.Secrets {
		if !needed(s.UUID) && !(plan.TPM && len(s.Disks) == 0) {
			continue
		}
		switch {
		case s.Problem != nil:
			checks = append(checks, refuseAs("secret", s.Problem))
		case s.Present && s.Note != "":
			checks = append(checks, ok("secret", "%s", s.Note))
		case s.Present:
			checks = append(checks, ok("secret", "%s is on host %s, and fits%s", s.UUID, plan.Host, opened(s)))
		case s.Scheme == backstay.SecretInService:
			checks = append(checks, ok("secret", "%s is made anew on host %s: key service %s unwrapped it%s", s.UUID, plan.Host, s.Service, opened(s)))
		default:
			checks = append(checks, ok("secret", "%s is made anew on host %s from the point%s", s.UUID, plan.Host, opened(s)))
		}
	}
	return checks
}

// opened says what a secret is for.
func opened(s mover.SecretState) string {
	if len(s.Disks) == 0 {
		return " (TPM)"
	}
	var names []string
	for _, d := range s.Disks {
		names = append(names, string(d))
	}
	return " (" + strings.Join(names, ", ") + ")"
}

// refuseAs is a check that refuses for an error, with its code and its way out.
func refuseAs(name string, e *backstay.Error) backstay.Check {
	detail := e.Message
	if e.Cause != "" {
		detail += ": " + e.Cause
	}
	return backstay.Check{Name: name, Detail: detail, Code: e.Code, Action: e.Action}
}
