package server

import (
	"context"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"slices"

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
	secret, hash := NewTokenSecret()
	token := backstay.Token{ID: uuid.NewString(), Name: in.Body.Name, Role: in.Body.Role, Files: in.Body.Files, Created: s.Now().UTC()}
	if err := s.Catalog.Tokens.PutToken(ctx, token, hash); err != nil {
		return nil, err
	}
	return &answer[api.CreateTokenResponse]{api.CreateTokenResponse{Token: token, Secret: secret}}, nil
}

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
		if t.Role == backstay.Owner {
			owners++
		}
	}
	if tokens[i].Role == backstay.Owner && owners == 1 {
		return nil, backstay.Errorf(backstay.CodeConflict, "the token %q is the last one of an owner", tokens[i].Name).
			Becausef("without it nobody could make tokens any more").Do("make another owner's token first")
	}
	if err := missing(s.Catalog.Tokens.DeleteToken(ctx, tokens[i].ID), backstay.CodeUnknownToken, "token", in.Token); err != nil {
		return nil, err
	}
	s.Files.EndOf(ctx, tokens[i].Name, "the token of its user was deleted")
	return nil, nil
}
