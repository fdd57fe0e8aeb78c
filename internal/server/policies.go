package server

import (
	"context"
	"errors"
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
	add(s, "deletePolicy", s.deletePolicy)
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
	bad := func(why, todo string) error {
		return backstay.Errorf(backstay.CodeUsage, "the policy %q cannot be kept", p.Name).Becausef("%s", why).Do("%s", todo)
	}
	every := time.Duration(p.Every)
	keep := []int{p.Vault.Last, p.Vault.Daily, p.Vault.Weekly, p.Vault.Monthly, p.Vault.Yearly}
	known := []backstay.Consistency{backstay.ApplicationConsistent, backstay.FileSystemConsistent, backstay.CrashConsistent}
	switch {
	case !policyName.MatchString(string(p.Name)):
		return bad("a name has letters, digits, dot, dash and underscore, and at most 63 of them", "choose another name")
	case every < 0 || every > 0 && every < shortestInterval:
		return bad("the interval is shorter than a minute", "give --every as 1h or 24h, or 0 for backups by hand only")
	case !slices.Contains(known, p.Consistency):
		return bad("consistency "+string(p.Consistency)+" is not known", "say application, file-system or crash")
	case p.Snapshot.Days < 1 || p.Snapshot.Days > 30:
		return bad("points stay in the snapshot tier from 1 to 30 days", "give --snapshot-days from 1 to 30")
	case p.Snapshot.Count < 0 || slices.Min(keep) < 0:
		return bad("a number of points is negative", "give numbers from 0 up")
	case slices.Max(keep) == 0:
		return bad("no rule keeps any point in the vault", "give at least one of --keep-last, --daily, --weekly, --monthly, --yearly")
	}
	return nil
}
