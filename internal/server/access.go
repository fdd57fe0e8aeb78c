package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/google/uuid"
)

type listAuditInput struct {
	After int64 `query:"after" minimum:"0" doc:"only entries with a greater seq"`
	Limit int   `query:"limit" minimum:"1" maximum:"1000" default:"1000"`
}

type createTokenInput struct{ Body api.CreateTokenRequest }

type tokenInput struct {
	Token string `path:"token" doc:"id or name"`
}

func (s *server) registerAccess() {
	add(s, "listAudit", func(ctx context.Context, in *listAuditInput) (*answer[[]backstay.AuditEntry], error) {
		entries, err := s.Catalog.Audit.ListAudit(ctx, in.After, in.Limit)
		return &answer[[]backstay.AuditEntry]{entries}, err
	})
	add(s, "listTokens", func(ctx context.Context, _ *struct{}) (*answer[[]backstay.Token], error) {
		tokens, err := s.Catalog.Tokens.ListTokens(ctx)
		return &answer[[]backstay.Token]{tokens}, err
	})
	add(s, "createToken", s.createToken)
	add(s, "deleteToken", s.deleteToken)
}

// NewTokenSecret makes the secret of a token and the hash under which the
// catalogue keeps it. It has 256 random bits, so a plain hash is enough.
func NewTokenSecret() (secret string, hash [32]byte) {
	random := make([]byte, 32)
	rand.Read(random) // never fails (crypto/rand)
	secret = "bst_" + base64.RawURLEncoding.EncodeToString(random)
	return secret, sha256.Sum256([]byte(secret))
}

func (s *server) createToken(ctx context.Context, in *createTokenInput) (*answer[api.CreateTokenResponse], error) {
	callOf(ctx).target = in.Body.Name
	tokens, err := s.Catalog.Tokens.ListTokens(ctx)
	if err != nil {
		return nil, err
	}
	if slices.ContainsFunc(tokens, func(t backstay.Token) bool { return t.Name == in.Body.Name }) {
		return nil, backstay.Errorf(backstay.CodeExists, "there is a token %q already", in.Body.Name).
			Becausef("the audit log tells tokens apart by their name")
	}
	token := backstay.Token{ID: uuid.NewString(), Name: in.Body.Name, Role: in.Body.Role, Files: in.Body.Files, Created: s.Now().UTC()}
	if err := s.bind(ctx, &token, in.Body); err != nil {
		return nil, err
	}
	secret, hash := NewTokenSecret()
	if err := s.Catalog.Tokens.PutToken(ctx, token, hash); err != nil {
		return nil, err
	}
	return &answer[api.CreateTokenResponse]{api.CreateTokenResponse{Token: token, Secret: secret}}, nil
}

// bind gives a token its end and, if it was asked for, its one point.
func (s *server) bind(ctx context.Context, t *backstay.Token, r api.CreateTokenRequest) error {
	if r.Expires > 0 {
		until := t.Created.Add(time.Duration(r.Expires))
		t.Expires = &until
	}
	if r.Point == "" {
		return nil
	}
	if r.Expires <= 0 || r.Expires > backstay.MaxPointTokenLife {
		return backstay.Errorf(backstay.CodeUsage, "a token of one point must expire").
			Becausef("it is for one restore, and counts %s at most", time.Duration(backstay.MaxPointTokenLife)).Do("say --expires, such as --expires 1h")
	}
	if r.Role == backstay.Owner {
		return backstay.Errorf(backstay.CodeUsage, "a token of one point is not an owner's").
			Becausef("it restores that point and does nothing else").Do("say --role operator, or --role reader for one that only looks")
	}
	p, err := s.point(ctx, r.Point)
	if err != nil {
		return err
	}
	t.Point = p.ID
	callOf(ctx).target = t.Name + " for " + string(p.ID) + " of " + label(p.VM)
	return nil
}

// lasting tells whether a token is an owner's and stays one.
func lasting(t backstay.Token) bool { return t.Role == backstay.Owner && t.Expires == nil }

// deleteToken deletes a token, but not the last owner's: nobody could make
// another.
func (s *server) deleteToken(ctx context.Context, in *tokenInput) (*struct{}, error) {
	callOf(ctx).target = in.Token
	tokens, err := s.Catalog.Tokens.ListTokens(ctx)
	if err != nil {
		return nil, err
	}
	i := slices.IndexFunc(tokens, func(t backstay.Token) bool { return t.ID == in.Token || t.Name == in.Token })
	if i < 0 {
		return nil, backstay.Errorf(backstay.CodeUnknownToken, "there is no token %q", in.Token).Becausef("no token has this id or name")
	}
	owners := 0
	for _, t := range tokens {
		if lasting(t) {
			owners++
		}
	}
	if lasting(tokens[i]) && owners == 1 {
		return nil, backstay.Errorf(backstay.CodeConflict, "the token %q is the last one of an owner", tokens[i].Name).
			Becausef("without it nobody could make tokens any more").Do("make another owner's token first")
	}
	if err := missing(s.Catalog.Tokens.DeleteToken(ctx, tokens[i].ID), backstay.CodeUnknownToken, "token", in.Token); err != nil {
		return nil, err
	}
	s.Files.EndOf(ctx, tokens[i].Name, "the token of its user was deleted")
	return nil, nil
}
