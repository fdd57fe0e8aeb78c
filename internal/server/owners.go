package server

import (
	"context"
	"path"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

// needOwner refuses what a role below owner may not ask for of a route that is
// open to it otherwise. why says what makes this request another matter.
func needOwner(ctx context.Context, why string) error {
	who := callOf(ctx).who
	if who.Role.Covers(backstay.Owner) {
		return nil
	}
	return backstay.Errorf(backstay.CodeNotAllowed, "the token %q may not do this", who.Name).
		Becausef("its role is %s, and %s", who.Role, why).Do("use a token of an owner")
}

// mayDeploy keeps a deploy to what its folder has: whoever may name any file of the
// host as a disk can read it and write to it, and an emulator is a program that is
// run there.
func mayDeploy(ctx context.Context, r backstay.DeployRequest, parameters []backstay.Parameter) error {
	for _, p := range parameters {
		value, set := r.Set[p.Name]
		inside := strings.HasPrefix(path.Clean(value), strings.TrimSuffix(path.Clean(r.Folder), "/")+"/")
		if p.Type != backstay.TypePath || !set || inside || value == p.Default {
			continue
		}
		return needOwner(ctx, p.Name+" names a file of the host outside of "+r.Folder)
	}
	return nil
}

// mayWrite keeps block devices to owners: nothing brings back what was on one.
func mayWrite(ctx context.Context, plan backstay.RestorePlan) error {
	at := slices.IndexFunc(plan.Disks, func(d backstay.PlannedDisk) bool { return d.Device })
	if at < 0 {
		return nil
	}
	return needOwner(ctx, "what is on "+plan.Disks[at].Path+" would be gone for good")
}

// mayUndo keeps an undo to owners that leaves nothing of what a guest wrote: an
// operator may not delete.
func mayUndo(ctx context.Context, plan backstay.UndoPlan) error {
	if plan.SafetyPoint != "" || plan.Kind == backstay.DeployPlan {
		return nil
	}
	return needOwner(ctx, "what this removes is kept in no recovery point")
}
