package host

import (
	"crypto/cipher"
	"crypto/ecdh"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"errors"
	"fmt"

	"golang.org/x/crypto/chacha20poly1305"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// streamCipher seals what one host serves to one restore on another. The key comes
// from a pair of keys that either side made for this job alone, and is bound to the
// job, the point and both public keys; each piece is bound to what was asked for.
type streamCipher struct{ aead cipher.AEAD }

const streamContext = "backstay stream v1"

// streamOf says between whom a stream runs.
type streamOf struct {
	job              backstay.JobID
	point            backstay.PointID
	restoring, serve []byte // public keys
}

func newStreamCipher(own *ecdh.PrivateKey, other []byte, of streamOf) (*streamCipher, error) {
	public, err := ecdh.X25519().NewPublicKey(other)
	if err != nil {
		return nil, fmt.Errorf("key of the other host: %w", err)
	}
	shared, err := own.ECDH(public)
	if err != nil {
		return nil, fmt.Errorf("key of the other host: %w", err)
	}
	info := bound(streamContext, string(of.job), string(of.point), string(of.restoring), string(of.serve))
	key, err := hkdf.Key(sha256.New, shared, nil, info, chacha20poly1305.KeySize)
	if err != nil {
		return nil, fmt.Errorf("derive the stream's key: %w", err)
	}
	aead, err := chacha20poly1305.NewX(key)
	if err != nil {
		return nil, fmt.Errorf("make the stream's cipher: %w", err)
	}
	return &streamCipher{aead}, nil
}

// bound joins texts so that no two lists of texts give the same.
func bound(texts ...string) string {
	var all string
	for _, t := range texts {
		all += fmt.Sprintf("%d:%s,", len(t), t)
	}
	return all
}

func boundAsk(a mover.StreamAsk) []byte {
	return []byte(bound(string(a.Kind), string(a.Disk), fmt.Sprint(a.Offset), fmt.Sprint(a.Length)))
}

// seal seals the answer to an ask under a nonce of its own: 24 random bytes never
// come twice.
func (c *streamCipher) seal(a mover.StreamAsk, plain []byte) []byte {
	out := make([]byte, chacha20poly1305.NonceSizeX, chacha20poly1305.NonceSizeX+len(plain)+chacha20poly1305.Overhead)
	_, _ = rand.Read(out) // never fails on the systems that Go supports
	return c.aead.Seal(out, out, plain, boundAsk(a))
}

var errStreamForged = errors.New("an answer of the other host was changed on its way, or is not the answer to what was asked")

// open returns the answer to an ask, or fails: nothing that is not authentic is
// ever handed out (I4).
func (c *streamCipher) open(a mover.StreamAsk, sealed []byte) ([]byte, error) {
	if len(sealed) < chacha20poly1305.NonceSizeX {
		return nil, errStreamForged
	}
	nonce, rest := sealed[:chacha20poly1305.NonceSizeX], sealed[chacha20poly1305.NonceSizeX:]
	plain, err := c.aead.Open(nil, nonce, rest, boundAsk(a))
	if err != nil {
		return nil, errStreamForged
	}
	return plain, nil
}
