package server

import (
	"context"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// PointSecrets looks after the host secrets that points need. Values that are given
// are kept by the host alone and told nobody (I10).
type PointSecrets interface {
	// SecretsOf tells of each secret whether a restore has what it needs.
	SecretsOf(ctx context.Context, p backstay.PointID, host backstay.HostName, tier backstay.Tier) (api.PointSecrets, error)
	// GiveSecrets makes those that the host lacks. CodeSecretDiffers for a value that
	// does not fit, and for one that is there and is another.
	GiveSecrets(ctx context.Context, p backstay.PointID, r api.GiveSecretsRequest) error
	// KeyServices names the outside key services of the region.
	KeyServices() []string
}

type secretsInput struct {
	Point string            `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
	Host  backstay.HostName `query:"host" doc:"the host that shall get what is restored; empty for the point's own"`
	Tier  backstay.Tier     `query:"tier" enum:"snapshot,vault" doc:"the tier that is read; empty for the one that a restore chooses"`
}

type giveSecretsInput struct {
	Point string `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
	Body  api.GiveSecretsRequest
}

func (s *server) registerSecrets() {
	add(s, "getPointSecrets", func(ctx context.Context, in *secretsInput) (*answer[api.PointSecrets], error) {
		p, err := s.point(ctx, in.Point)
		if err != nil {
			return nil, err
		}
		out, err := s.Secrets.SecretsOf(ctx, p.ID, in.Host, in.Tier)
		return &answer[api.PointSecrets]{out}, err
	})
	add(s, "giveSecrets", func(ctx context.Context, in *giveSecretsInput) (*struct{}, error) {
		p, err := s.point(ctx, in.Point)
		if err != nil {
			return nil, err
		}
		callOf(ctx).target = string(p.ID)
		return nil, s.Secrets.GiveSecrets(ctx, p.ID, in.Body)
	})
}

// knownService refuses a key service that the configuration does not have.
func (s *server) knownService(name string) error {
	known := s.Secrets.KeyServices()
	if name == "" || slices.Contains(known, name) {
		return nil
	}
	e := backstay.Errorf(backstay.CodeUsage, "there is no key service %q", name).Becausef("the server's configuration has none of that name under keyServices")
	if len(known) > 0 {
		return e.Do("name one of them: %s", known)
	}
	return e.Do("add it to the configuration, and start the server again")
}
