package transit

import (
	"crypto/aes"
	"crypto/cipher"
	"crypto/rand"
	"encoding/base64"
	"encoding/json"
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strconv"
	"strings"
	"sync"
	"testing"

	backstay "github.com/backstay/backstay"
)

func isOrNil(err, want error) bool {
	if want == nil {
		return err == nil
	}
	return errors.Is(err, want)
}

// fakeEngine answers as a transit engine does, as far as this adapter asks. It is no
// proof that a real one is understood; vault_soak_test.go is.
type fakeEngine struct {
	mu       sync.Mutex
	versions [][]byte
	least    int
}

const rootToken, roleToken = "hvs.root", "hvs.role"

func (f *fakeEngine) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	f.mu.Lock()
	defer f.mu.Unlock()
	var in map[string]any
	_ = json.NewDecoder(r.Body).Decode(&in)
	text := func(key string) string { s, _ := in[key].(string); return s }
	refuse := func(status int, words string) {
		w.WriteHeader(status)
		_ = json.NewEncoder(w).Encode(map[string][]string{"errors": {words}})
	}
	path := strings.TrimPrefix(r.URL.Path, "/v1/")
	token := r.Header.Get("X-Vault-Token")
	switch {
	case path == "auth/approle/login" && text("role_id") == "role" && text("secret_id") == "id":
		_ = json.NewEncoder(w).Encode(map[string]any{"auth": map[string]string{"client_token": roleToken}})
	case path == "auth/approle/login":
		refuse(400, "invalid role or secret ID")
	case token != rootToken && token != roleToken:
		refuse(403, "permission denied")
	case path == "transit/keys/vm/rotate":
		f.rotate()
	case path == "transit/keys/vm/config":
		f.least = int(in["min_decryption_version"].(float64))
	case strings.HasPrefix(path, "transit/") && !strings.HasSuffix(path, "/vm"):
		refuse(400, "encryption key not found")
	case path == "transit/encrypt/vm":
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"ciphertext": f.encrypt(text("plaintext"), text("associated_data"))}})
	case path == "transit/decrypt/vm":
		plain, err := f.decrypt(text("ciphertext"), text("associated_data"))
		if err != nil {
			refuse(400, err.Error())
			return
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"data": map[string]string{"plaintext": plain}})
	default:
		refuse(404, "no handler")
	}
}

func (f *fakeEngine) rotate() {
	key := make([]byte, 32)
	_, _ = rand.Read(key)
	f.versions = append(f.versions, key)
}

func (f *fakeEngine) gcm(version int) cipher.AEAD {
	block, _ := aes.NewCipher(f.versions[version-1])
	gcm, _ := cipher.NewGCM(block)
	return gcm
}

func (f *fakeEngine) encrypt(plaintext, about string) string {
	nonce := make([]byte, 12)
	_, _ = rand.Read(nonce)
	n := len(f.versions)
	return fmt.Sprintf("vault:v%d:%s", n, base64.StdEncoding.EncodeToString(f.gcm(n).Seal(nonce, nonce, []byte(plaintext), []byte(about))))
}

func (f *fakeEngine) decrypt(wrapped, about string) (string, error) {
	parts := strings.Split(wrapped, ":")
	if len(parts) != 3 || parts[0] != "vault" || !strings.HasPrefix(parts[1], "v") {
		return "", errors.New("invalid ciphertext: no prefix")
	}
	version, err := strconv.Atoi(parts[1][1:])
	if err != nil || version < 1 || version > len(f.versions) {
		return "", errors.New("invalid ciphertext: version")
	}
	if version < f.least {
		return "", errors.New("ciphertext or signature version is disallowed by policy (too old)")
	}
	sealed, err := base64.StdEncoding.Strict().DecodeString(parts[2])
	if err != nil || len(sealed) < 12 {
		return "", errors.New("invalid ciphertext: could not decode base64")
	}
	plain, err := f.gcm(version).Open(nil, sealed[:12], sealed[12:], []byte(about))
	if err != nil {
		return "", errors.New("cipher: message authentication failed")
	}
	return string(plain), nil
}

// TestAFakeEngineIsSpokenToByThePortsRules runs the suite on the fake.
func TestAFakeEngineIsSpokenToByThePortsRules(t *testing.T) {
	engine := &fakeEngine{}
	engine.rotate()
	server := httptest.NewServer(engine)
	defer server.Close()
	a := admin{t, server.URL, rootToken}
	a.run()
	a.signsIn("role", "id")
}

// TestWhatIsNoServiceIsRefused, without a word of the credential.
func TestWhatIsNoServiceIsRefused(t *testing.T) {
	credential := backstay.NewSecret([]byte("hvs.token"))
	for _, o := range []Options{
		{URL: "ftp://x", Key: "vm", Credential: credential}, {URL: "https://user:pw@x", Key: "vm", Credential: credential},
		{URL: "https://x", Key: "../sys", Credential: credential}, {URL: "https://x", Mount: "a/b", Key: "vm", Credential: credential},
		{URL: "https://x", Key: "vm"}, {URL: "https://x", Key: "vm", Credential: backstay.NewSecret([]byte("a b c"))},
		{URL: "https://x", Key: "vm", Credential: credential, CA: []byte("none")},
	} {
		if _, err := New(o); err == nil || strings.Contains(err.Error(), "hvs.token") {
			t.Errorf("%+v: %v", o, err)
		}
	}
}

// TestAServerThatIsBrokenIsAway: sealed, or something else answers in its place.
func TestAServerThatIsBrokenIsAway(t *testing.T) {
	for _, answer := range []http.HandlerFunc{
		func(w http.ResponseWriter, _ *http.Request) {
			w.WriteHeader(503)
			_, _ = w.Write([]byte(`{"errors":["Vault is sealed"]}`))
		},
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("<html>")) },
		func(w http.ResponseWriter, _ *http.Request) { _, _ = w.Write([]byte("{}")) },
	} {
		server := httptest.NewServer(answer)
		s, err := New(Options{URL: server.URL, Key: "vm", Credential: backstay.NewSecret([]byte("t"))})
		must(t, err)
		if _, err := s.Wrap(t.Context(), backstay.NewSecret([]byte("v")), "x"); err == nil {
			t.Error("a broken server wrapped something")
		}
		server.Close()
	}
}
