package snapshot

import (
	"bytes"
	"compress/gzip"
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/json"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier"
)

// freshKey makes a new host key.
func freshKey() (backstay.Secret, error) {
	key := make([]byte, 32)
	if _, err := rand.Read(key); err != nil {
		return backstay.Secret{}, fmt.Errorf("make host key: %w", err)
	}
	return backstay.NewSecret(key), nil
}

func aead(key []byte) (cipher.AEAD, error) {
	block, err := aes.NewCipher(key)
	if err != nil {
		return nil, err
	}
	return cipher.NewGCM(block)
}

// seal encrypts a definition so that only this host opens it, and only as that
// of this point. Firmware variables are mostly 0xff, hence the gzip.
func seal(key []byte, p backstay.PointID, d tier.Definition) ([]byte, error) {
	var plain bytes.Buffer
	zip := gzip.NewWriter(&plain)
	if err := json.NewEncoder(zip).Encode(d); err != nil {
		return nil, fmt.Errorf("encode definition: %w", err)
	}
	if err := zip.Close(); err != nil {
		return nil, fmt.Errorf("encode definition: %w", err)
	}
	gcm, err := aead(key)
	if err != nil {
		return nil, fmt.Errorf("seal definition: %w", err)
	}
	nonce := make([]byte, gcm.NonceSize())
	if _, err := rand.Read(nonce); err != nil {
		return nil, fmt.Errorf("seal definition: %w", err)
	}
	return gcm.Seal(nonce, nonce, plain.Bytes(), []byte(p)), nil
}

// unseal is seal's inverse. What was not sealed by this host for this point is
// an error (I4).
func unseal(key []byte, p backstay.PointID, sealed []byte) (tier.Definition, error) {
	var d tier.Definition
	gcm, err := aead(key)
	if err != nil {
		return d, fmt.Errorf("unseal definition: %w", err)
	}
	if len(sealed) < gcm.NonceSize() {
		return d, fmt.Errorf("unseal definition: it is cut short")
	}
	nonce, body := sealed[:gcm.NonceSize()], sealed[gcm.NonceSize():]
	plain, err := gcm.Open(nil, nonce, body, []byte(p))
	if err != nil {
		return d, fmt.Errorf("unseal definition: it is not what this host sealed for this point: %w", err)
	}
	zip, err := gzip.NewReader(bytes.NewReader(plain))
	if err != nil {
		return d, fmt.Errorf("decode definition: %w", err)
	}
	text, err := io.ReadAll(zip)
	if err != nil {
		return d, fmt.Errorf("decode definition: %w", err)
	}
	if err := json.Unmarshal(text, &d); err != nil {
		return d, fmt.Errorf("decode definition: %w", err)
	}
	return d, nil
}
