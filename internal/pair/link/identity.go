package link

import (
	"bytes"
	"crypto/ed25519"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"crypto/tls"
	"crypto/x509"
	"crypto/x509/pkix"
	"encoding/hex"
	"encoding/pem"
	"errors"
	"fmt"
	"math/big"
	"time"

	backstay "github.com/backstay/backstay"
)

// Identity is what a server is known by to the regions with which it is paired: a
// self-signed certificate and its key.
type Identity struct {
	certificate tls.Certificate
	fingerprint string
	tokens      []byte // the key of the tokens that this server makes
}

// NewIdentity makes a key and its certificate, as ReadIdentity takes them. They do
// not expire: a pairing ends when its row in the catalogue goes.
func NewIdentity(now time.Time) (backstay.Secret, error) {
	public, private, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("make a key: %w", err)
	}
	serial, err := rand.Int(rand.Reader, new(big.Int).Lsh(big.NewInt(1), 120))
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("make a serial number: %w", err)
	}
	template := &x509.Certificate{
		SerialNumber: serial, Subject: pkix.Name{CommonName: "backstay"},
		NotBefore: now.Add(-24 * time.Hour), NotAfter: now.AddDate(100, 0, 0),
		KeyUsage: x509.KeyUsageDigitalSignature, ExtKeyUsage: []x509.ExtKeyUsage{x509.ExtKeyUsageServerAuth, x509.ExtKeyUsageClientAuth},
	}
	der, err := x509.CreateCertificate(rand.Reader, template, template, public, private)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("make a certificate: %w", err)
	}
	key, err := x509.MarshalPKCS8PrivateKey(private)
	if err != nil {
		return backstay.Secret{}, fmt.Errorf("encode the key: %w", err)
	}
	var out bytes.Buffer
	_ = pem.Encode(&out, &pem.Block{Type: "CERTIFICATE", Bytes: der}) // a buffer takes everything
	_ = pem.Encode(&out, &pem.Block{Type: "PRIVATE KEY", Bytes: key})
	return backstay.NewSecret(out.Bytes()), nil
}

// ReadIdentity reads what NewIdentity made.
func ReadIdentity(s backstay.Secret) (*Identity, error) {
	certificate, err := tls.X509KeyPair(s.Reveal(), s.Reveal())
	if err != nil {
		return nil, fmt.Errorf("read the certificate for pairing: %w", err)
	}
	private, ok := certificate.PrivateKey.(ed25519.PrivateKey)
	if !ok {
		return nil, errors.New("read the certificate for pairing: its key is of another kind")
	}
	tokens, err := hkdf.Key(sha256.New, private.Seed(), nil, "backstay tokens of pairing", 32)
	if err != nil {
		return nil, fmt.Errorf("derive the key of tokens: %w", err)
	}
	return &Identity{certificate: certificate, fingerprint: fingerprintOf(certificate.Certificate[0]), tokens: tokens}, nil
}

// Fingerprint is the SHA-256 of the certificate, in hex.
func (i *Identity) Fingerprint() string { return i.fingerprint }

func fingerprintOf(der []byte) string {
	sum := sha256.Sum256(der)
	return hex.EncodeToString(sum[:])
}

// peerOf returns the fingerprint of the other side's certificate; "" if it showed none.
func peerOf(state tls.ConnectionState) string {
	if len(state.PeerCertificates) == 0 {
		return ""
	}
	return fingerprintOf(state.PeerCertificates[0].Raw)
}
