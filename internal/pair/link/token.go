package link

import (
	"crypto/hmac"
	"crypto/rand"
	"crypto/sha256"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"strings"
	"time"

	backstay "github.com/backstay/backstay"
)

// Token lets another server pair with the one that made it, once. It is a secret
// until it was used or has expired.
//
// The server that makes it keeps nothing: what the token says is under a MAC with a
// key of that server, and its ID is kept with the region that used it.
type Token struct {
	ID      string              `json:"i"`
	Region  backstay.RegionName `json:"r"` // of the server that made it
	Address string              `json:"a"` // where that server is called, HOST:PORT
	// Fingerprint is that server's; a server with another certificate is not called.
	Fingerprint string `json:"f"`
	Expires     int64  `json:"e"` // seconds since 1970
	// Replace is the one region of which the server that made it already knows another
	// server, and lets this one take its place; empty for none.
	Replace backstay.RegionName `json:"p,omitempty"`
	MAC     []byte              `json:"m,omitempty"`
}

// tokenPrefix tells a token from other secrets; maxToken bounds one, in characters.
const (
	tokenPrefix = "bspair_"
	maxToken    = 4096
)

// Issue completes the token (its ID, fingerprint and MAC) and returns it as a person
// passes it on.
func (i *Identity) Issue(t Token) (string, error) {
	t.ID, t.Fingerprint = rand.Text(), i.fingerprint
	mac, err := i.mac(t)
	if err != nil {
		return "", err
	}
	t.MAC = mac
	data, err := json.Marshal(t)
	if err != nil {
		return "", fmt.Errorf("encode the token: %w", err)
	}
	return tokenPrefix + base64.RawURLEncoding.EncodeToString(data), nil
}

// Check tells whether this server made the token and it has not expired. Whether it
// was used already is for the catalogue to say.
func (i *Identity) Check(t Token, now time.Time) error {
	mac, err := i.mac(t)
	if err != nil {
		return err
	}
	switch {
	case !hmac.Equal(mac, t.MAC):
		return backstay.Errorf(backstay.CodePairing, "the token is not one that this server made")
	case now.Unix() >= t.Expires:
		return backstay.Errorf(backstay.CodePairing, "the token has expired").Becausef("it could be used until %s", time.Unix(t.Expires, 0).UTC().Format(time.RFC3339))
	}
	return nil
}

func (i *Identity) mac(t Token) ([]byte, error) {
	t.MAC = nil
	data, err := json.Marshal(t)
	if err != nil {
		return nil, fmt.Errorf("encode the token: %w", err)
	}
	h := hmac.New(sha256.New, i.tokens)
	h.Write(data)
	return h.Sum(nil), nil
}

// ParseToken reads a token as a person gave it. That it is whole says nothing of
// whether it counts, which its maker alone can tell.
func ParseToken(s string) (Token, error) {
	var t Token
	bad := func(err error) (Token, error) {
		return Token{}, backstay.Errorf(backstay.CodePairing, "this is not a token of pairing").Because(err).
			Do("give the whole token that `backstay region pair` printed in the other region")
	}
	body, ok := strings.CutPrefix(strings.TrimSpace(s), tokenPrefix)
	if !ok || len(s) > maxToken {
		return bad(fmt.Errorf("a token begins with %s", tokenPrefix))
	}
	data, err := base64.RawURLEncoding.Strict().DecodeString(body)
	if err != nil {
		return bad(errors.New("a part of it is missing or wrong")) // the error would quote it
	}
	if err := json.Unmarshal(data, &t); err != nil || len(t.MAC) != sha256.Size || len(t.Fingerprint) != 2*sha256.Size {
		return bad(errors.New("a part of it is missing or wrong"))
	}
	if _, _, err := net.SplitHostPort(t.Address); err != nil {
		return bad(errors.New("it names no address"))
	}
	return t, nil
}
