package server

import (
	"context"
	"errors"
	"fmt"
	"regexp"
	"slices"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/catalog"
)

type policyInput struct {
	Policy string `path:"policy"`
}

type createPolicyInput struct{ Body backstay.Policy }

func (s *server) registerPolicies() {
	add(s, "listPolicies", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Policy], error) {
		policies, err := s.Catalog.Policies.ListPolicies(ctx)
		return &answer[[]backstay.Policy]{policies}, err
	})
	add(s, "getPolicy", func(ctx context.Context, in *policyInput) (*answer[backstay.Policy], error) {
		p, err := s.Catalog.Policies.Policy(ctx, backstay.PolicyName(in.Policy))
		return &answer[backstay.Policy]{p}, missing(err, backstay.CodeUnknownPolicy, "policy", in.Policy)
	})
	add(s, "createPolicy", s.createPolicy)
	add(s, "editPolicy", s.editPolicy)
	add(s, "simulatePolicy", s.simulatePolicy)
	add(s, "deletePolicy", s.deletePolicy)
}

type editPolicyInput struct {
	Policy string `path:"policy"`
	Body   backstay.Policy
}

// editPolicy replaces a policy. Old and new points are judged by the new one from
// the next expiry on.
func (s *server) editPolicy(ctx context.Context, in *editPolicyInput) (*answer[backstay.Policy], error) {
	p := in.Body
	callOf(ctx).target = in.Policy
	if p.Name != backstay.PolicyName(in.Policy) {
		return nil, backstay.Errorf(backstay.CodeUsage, "the policy %q cannot be renamed to %q", in.Policy, p.Name).
			Becausef("items and points name it").Do("make a new policy, and protect the VMs under it")
	}
	if err := checkPolicy(p); err != nil {
		return nil, err
	}
	err := s.Catalog.Policies.UpdatePolicy(ctx, p)
	return &answer[backstay.Policy]{p}, missing(err, backstay.CodeUnknownPolicy, "policy", p.Name)
}

type simulatePolicyInput struct {
	Policy string `path:"policy"`
	Days   int    `query:"days" default:"30" minimum:"1" maximum:"3660" doc:"how long the policy is imagined to have been at work"`
}

func (s *server) simulatePolicy(ctx context.Context, in *simulatePolicyInput) (*answer[backstay.PolicySimulation], error) {
	p, err := s.Catalog.Policies.Policy(ctx, backstay.PolicyName(in.Policy))
	if err != nil {
		return nil, missing(err, backstay.CodeUnknownPolicy, "policy", in.Policy)
	}
	sim, err := s.Planner.SimulatePolicy(p, in.Days)
	return &answer[backstay.PolicySimulation]{sim}, err
}

func (s *server) createPolicy(ctx context.Context, in *createPolicyInput) (*answer[backstay.Policy], error) {
	p := in.Body
	callOf(ctx).target = string(p.Name)
	if err := checkPolicy(p); err != nil {
		return nil, err
	}
	err := s.Catalog.Policies.CreatePolicy(ctx, p)
	if errors.Is(err, catalog.ErrExists) {
		return nil, backstay.Errorf(backstay.CodeExists, "there is a policy %q already", p.Name).Becausef("names of policies are unique in a region")
	}
	return &answer[backstay.Policy]{p}, err
}

func (s *server) deletePolicy(ctx context.Context, in *policyInput) (*struct{}, error) {
	callOf(ctx).target = in.Policy
	name := backstay.PolicyName(in.Policy)
	err := s.Catalog.Policies.DeletePolicy(ctx, name)
	if !errors.Is(err, catalog.ErrExists) {
		return nil, missing(err, backstay.CodeUnknownPolicy, "policy", name)
	}
	items, err := s.Catalog.Items.ListItems(ctx)
	if err != nil {
		return nil, err
	}
	var users []string
	for _, item := range items {
		if item.Policy == name {
			users = append(users, label(item.VM))
		}
	}
	return nil, backstay.Errorf(backstay.CodeConflict, "the policy %q is in use", name).
		Becausef("it protects %s", strings.Join(users, ", ")).Do("protect those VMs under another policy first")
}

var policyName = regexp.MustCompile(`^[A-Za-z0-9][A-Za-z0-9._-]{0,62}$`)

// shortestInterval keeps a mistyped interval from doing nothing but backups.
const shortestInterval = time.Minute

// checkPolicy refuses a policy that cannot be meant.
func checkPolicy(p backstay.Policy) error {
	for _, check := range []func(backstay.Policy) (why, todo string){checkWish, checkGuest, checkKeep, checkDepth} {
		if why, todo := check(p); why != "" {
			return backstay.Errorf(backstay.CodeUsage, "the policy %q cannot be kept", p.Name).Becausef("%s", why).Do("%s", todo)
		}
	}
	return nil
}

// strength is the order of consistencies, strongest first.
var strength = []backstay.Consistency{backstay.ApplicationConsistent, backstay.FileSystemConsistent, backstay.CrashConsistent}

func checkWish(p backstay.Policy) (why, todo string) {
	every, wish := time.Duration(p.Every), slices.Index(strength, p.Consistency)
	switch {
	case !policyName.MatchString(string(p.Name)):
		return "a name has letters, digits, dot, dash and underscore, and at most 63 of them", "choose another name"
	case every < 0 || every > 0 && every < shortestInterval:
		return "the interval is shorter than a minute", "give --every as 1h or 24h, or 0 for backups by hand only"
	case wish < 0:
		return "consistency " + string(p.Consistency) + " is not known", "say application, file-system or crash"
	}
	for _, weaker := range p.Fallback {
		at := slices.Index(strength, weaker)
		if at <= wish {
			return fmt.Sprintf("the fallback %q is not weaker than what stands before it, %q", weaker, strength[wish]),
				"give --fallback in the order of application, file-system, crash, each weaker than the wish and than the one before it, or none"
		}
		wish = at
	}
	return "", ""
}

// The bounds of what a policy may ask of guests.
const (
	leastBudget  = backstay.Duration(100 * time.Millisecond)
	mostBudget   = backstay.Duration(30 * time.Second)
	leastLatency = backstay.Duration(time.Millisecond)
	mostLatency  = backstay.Duration(30 * time.Second)
)

func checkGuest(p backstay.Policy) (why, todo string) {
	g := p.Guest
	switch {
	case g.Hooks != "" && g.Hooks != backstay.HooksByUs && g.Hooks != backstay.HooksByAgent:
		return fmt.Sprintf("hooks %q is not known", g.Hooks), "say --hooks exec or --hooks agent"
	case g.FreezeBudget != 0 && (g.FreezeBudget < leastBudget || g.FreezeBudget > mostBudget):
		return "file systems stay frozen from 0.1 to 30 seconds", "give --freeze-budget from 100ms to 30s, or 0 for 2s"
	case g.LatencyLimit != 0 && (g.LatencyLimit < leastLatency || g.LatencyLimit > mostLatency):
		return "the limit of the guest's own requests is from 0.001 to 30 seconds", "give --latency-limit from 1ms to 30s, or 0 for 100ms"
	}
	for i, mount := range g.SkipMounts {
		switch {
		case !strings.HasPrefix(mount, "/") && !windowsMount.MatchString(mount) || strings.ContainsAny(mount, "\x00\n"):
			return fmt.Sprintf("%q is not a mount point", mount), "give --skip-mount as an absolute path in the guest, such as /mnt/scratch"
		case slices.Contains(g.SkipMounts[:i], mount):
			return fmt.Sprintf("the mount point %s is named twice", mount), "give --skip-mount once for each"
		}
	}
	return "", ""
}

// windowsMount is a drive as the guest agent of Windows names it.
var windowsMount = regexp.MustCompile(`^[A-Za-z]:(\\.*)?$`)

func checkKeep(p backstay.Policy) (why, todo string) {
	keep := []int{p.Vault.Last, p.Vault.Daily, p.Vault.Weekly, p.Vault.Monthly, p.Vault.Yearly}
	switch {
	case p.Snapshot.Days < 0 || p.Snapshot.Days > 30:
		return "points stay in the snapshot tier for at most 30 days", "give --snapshot-days from 1 to 30, or 0 for no limit by age"
	case p.Snapshot.Count < 0 || slices.Min(keep) < 0:
		return "a number of points is negative", "give numbers from 0 up"
	case p.Snapshot.Depth < 0 || p.Snapshot.Depth > backstay.MaxDepth:
		return fmt.Sprintf("a disk's chain holds from 1 to %d points", backstay.MaxDepth),
			fmt.Sprintf("give --snapshot-depth from 1 to %d, or 0 for %d", backstay.MaxDepth, backstay.DefaultDepth)
	case slices.Max(keep) == 0:
		return "no rule keeps any point in the vault", "give at least one of --keep-last, --daily, --weekly, --monthly, --yearly"
	}
	return "", ""
}

// checkDepth holds schedule × retention to what a disk's chain may hold: each
// point is a layer, and each layer costs the guest.
func checkDepth(p backstay.Policy) (why, todo string) {
	points, bound := p.ChainPoints(), p.Snapshot.MaxPoints()
	if points <= bound {
		return "", ""
	}
	count := fmt.Sprintf("give --snapshot-count %d", bound)
	if p.Snapshot.Count > 0 && (p.Snapshot.Days == 0 || p.Every == 0 || points == p.Snapshot.Count) {
		why = fmt.Sprintf("--snapshot-count %d is more than the %d points that the chain may hold", p.Snapshot.Count, bound)
	} else {
		why = fmt.Sprintf("every %s × %d days = %d points, and the chain may hold %d", hours(p.Every), p.Snapshot.Days, points, bound)
		if most := int(time.Duration(p.Every) * time.Duration(bound) / (24 * time.Hour)); most > 0 {
			count += fmt.Sprintf(" or --snapshot-days %d", most)
		}
	}
	if points <= backstay.MaxDepth {
		count += fmt.Sprintf(", or allow more layers with --snapshot-depth %d", points)
	} else {
		count += fmt.Sprintf(" (--snapshot-depth goes up to %d)", backstay.MaxDepth)
	}
	return why, count + "; the vault keeps the rest"
}

// hours writes an interval as people do: 90m, 4h.
func hours(d backstay.Duration) string {
	s := time.Duration(d).String()
	s = strings.TrimSuffix(s, "0s")
	if strings.HasSuffix(s, "h0m") {
		s = strings.TrimSuffix(s, "0m")
	}
	return s
}
