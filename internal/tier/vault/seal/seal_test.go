package seal_test

import (
	"bytes"
	"encoding/json"
	"errors"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/tier/vault/chunk"
	"github.com/backstay/backstay/internal/tier/vault/pack"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

const vaultID = "6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b11"

func keysOf(t *testing.T, keyset backstay.Secret) *seal.Keys {
	t.Helper()
	keys, err := seal.NewKeys(vaultID, keyset)
	if err != nil {
		t.Fatal(err)
	}
	return keys
}

func rotated(t *testing.T, keys *seal.Keys) *seal.Keys {
	t.Helper()
	next, err := keys.Rotated()
	if err != nil {
		t.Fatal(err)
	}
	return keysOf(t, next)
}

func TestNewEpochSealsAnewAndNamesAsBefore(t *testing.T) {
	first := keysOf(t, backstay.NewSecret(bytes.Repeat([]byte{7}, 32)))
	second := rotated(t, first)
	third := rotated(t, second)
	if first.Newest() != 1 || second.Newest() != 2 || third.Newest() != 3 {
		t.Fatalf("epochs %d %d %d", first.Newest(), second.Newest(), third.Newest())
	}
	content := []byte("content")
	if first.Name(chunk.Data, content) != third.Name(chunk.Data, content) || first.ID() != third.ID() ||
		first.HeaderMAC(content) != third.HeaderMAC(content) || first.ChainMAC(content) != third.ChainMAC(content) ||
		first.TrashMAC(content) != third.TrashMAC(content) || first.Item("vm") != third.Item("vm") {
		t.Error("rotating changes what lives as long as the vault")
	}
	sealed := map[uint32][]byte{}
	for epoch := uint32(1); epoch <= 3; epoch++ {
		for _, kind := range []seal.Type{seal.Pack, seal.Index, seal.Manifest} {
			head := third.Head(kind, [16]byte{1}, third.Field(epoch))
			box, err := third.Box(head, nil)
			if err != nil {
				t.Fatal(err)
			}
			out := box.Seal(nil, 0, content, nil)
			for other, theirs := range sealed {
				if bytes.Equal(out, theirs) {
					t.Errorf("epochs %d and %d seal alike", epoch, other)
				}
			}
			sealed[epoch] = out
			for n, keys := range map[uint32]*seal.Keys{1: first, 2: second, 3: third} {
				box, err := keys.Box(head, nil)
				if n < epoch {
					if !errors.Is(err, seal.ErrNewerKey) || !backstay.IsCode(err, backstay.CodeVaultKeyOld) {
						t.Errorf("keys of epoch %d on epoch %d: %v", n, epoch, err)
					}
					if _, err := keys.CheckHead(head.Encode(nil), kind, [16]byte{1}); !errors.Is(err, seal.ErrNewerKey) {
						t.Errorf("head of epoch %d with keys of epoch %d: %v", epoch, n, err)
					}
					continue
				}
				if err != nil {
					t.Fatal(err)
				}
				if plain, err := box.Open(nil, 0, out, nil); err != nil || !bytes.Equal(plain, content) {
					t.Errorf("keys of epoch %d cannot open epoch %d: %v", n, epoch, err)
				}
			}
		}
	}
	head := third.Head(seal.Manifest, [16]byte{1}, 3)
	clear := head.Encode(nil)
	known, unknown := third.ManifestMAC(clear), first.ManifestMAC(clear)
	if known != third.ManifestMAC(clear) || unknown == first.ManifestMAC(clear) {
		t.Error("a MAC of an epoch that the keys do not have must equal nothing")
	}
	if _, err := third.Box(third.Head(seal.Pack, [16]byte{1}, 0), nil); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("epoch 0: %v", err)
	}
}

func TestBothCiphersAreReadWhateverTheReaderHas(t *testing.T) {
	base := rotated(t, keysOf(t, backstay.NewSecret(make([]byte, 32))))
	for _, writer := range []uint32{seal.AES256GCM, seal.XChaCha20Poly1305} {
		keys := base.WithCipher(writer)
		b, err := pack.NewBuilder(keys, pack.NewID(), keys.Epoch())
		if err != nil {
			t.Fatal(err)
		}
		encoded, err := chunk.Encode(nil, []byte("some content"))
		if err != nil {
			t.Fatal(err)
		}
		b.Add(chunk.Data, keys.Name(chunk.Data, []byte("some content")), len("some content"), encoded)
		data := b.Finish()
		if data[48] != byte(writer) || data[51] != 2 {
			t.Errorf("epoch field % x of cipher %d", data[48:52], writer)
		}
		for _, reader := range []uint32{seal.AES256GCM, seal.XChaCha20Poly1305} {
			d, err := pack.Verify(base.WithCipher(reader), b.ID(), data)
			if err != nil || d.Epoch != writer<<seal.CipherShift|2 {
				t.Errorf("cipher %d read by a machine of cipher %d: epoch %x, %v", writer, reader, d.Epoch, err)
			}
		}
	}
	if _, err := base.Box(base.Head(seal.Pack, [16]byte{}, 2<<seal.CipherShift|1), nil); !errors.Is(err, seal.ErrWrong) {
		t.Errorf("unknown cipher: %v", err)
	}
}

func TestKeysetMustBeWholeAndOfItsVault(t *testing.T) {
	set := seal.NewKeyset(vaultID)
	good, err := set.Encode()
	if err != nil {
		t.Fatal(err)
	}
	keysOf(t, good)
	set.Epochs = map[uint32][]byte{3: make([]byte, 32)}
	gap, _ := set.Encode()
	set.Epochs = map[uint32][]byte{2: make([]byte, 31)}
	short, _ := set.Encode()
	other, _ := seal.NewKeyset("6f1d3c1e-8f0a-4a53-9c7b-0d6f0e5a7b12").Encode()
	for what, bad := range map[string][]byte{"a gap": gap.Reveal(), "a short key": short.Reveal(), "another vault's": other.Reveal(),
		"nothing": nil, "31 bytes": make([]byte, 31), "two": append(bytes.Clone(good.Reveal()), good.Reveal()...),
		"an unknown field": []byte(strings.Replace(string(good.Reveal()), "{", `{"x":1,`, 1))} {
		if _, err := seal.NewKeys(vaultID, backstay.NewSecret(bad)); err == nil {
			t.Errorf("a keyset with %s is taken", what)
		} else if len(bad) > 60 && strings.Contains(err.Error(), string(bad[60:80])) {
			t.Errorf("the error tells of the key: %v", err)
		}
	}
}

// What earlier releases derived stays as it is (I14).
func TestFirstEpochIsThatOfVersion1(t *testing.T) {
	keys := keysOf(t, backstay.NewSecret(bytes.Repeat([]byte{7}, 32))).WithCipher(seal.AES256GCM)
	old, err := json.Marshal(map[string]any{"vault": vaultID, "master": bytes.Repeat([]byte{7}, 32)})
	if err != nil {
		t.Fatal(err)
	}
	same := keysOf(t, backstay.NewSecret(old))
	if keys.Epoch() != 1 || same.ID() != keys.ID() || same.HeaderMAC(nil) != keys.HeaderMAC(nil) {
		t.Error("a bare master key and the keyset of version 1 differ")
	}
}
