//go:build integration

package unit_test

import (
	"bytes"
	"errors"
	"io"
	"math/rand/v2"
	"path/filepath"
	"testing"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"
	"github.com/google/uuid"
	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobserver"
	"github.com/backstay/backstay/internal/blob/replica"
	"github.com/backstay/backstay/internal/blob/unit"
	"github.com/backstay/backstay/internal/tier"
	"github.com/backstay/backstay/internal/tier/vault"
)

// image is a disk in memory.
type image struct{ *bytes.Reader }

func (image) Close() error { return nil }
func (i image) Extents(offset, length int64) ([]tier.Extent, error) {
	return []tier.Extent{{Range: backstay.Range{Offset: offset, Length: length}}}, nil
}

// s3Unit and azureUnit start a server, and return it with the URL of a unit
// behind a proxy.
func s3Unit(t *testing.T) (string, *blobserver.Proxy) {
	server := blobserver.S3(t, "bucket")
	p := blobserver.NewProxy(t, server.Addr)
	t.Setenv("AWS_ACCESS_KEY_ID", blobserver.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", blobserver.SecretKey)
	return "s3://bucket/site?path-style=true&region=us-east-1&endpoint=http://" + p.Addr, p
}

func azureUnit(t *testing.T) (string, *blobserver.Proxy) {
	server := blobserver.Azure(t)
	p := blobserver.NewProxy(t, server.Addr)
	t.Setenv("AZURE_STORAGE_KEY", blobserver.AccountKey)
	key, err := container.NewSharedKeyCredential(blobserver.Account, blobserver.AccountKey)
	must(t, err)
	c, err := container.NewClientWithSharedKeyCredential("http://"+server.Addr+"/"+blobserver.Account+"/cont", key, nil)
	must(t, err)
	_, err = c.Create(t.Context(), nil)
	must(t, err)
	return "azure://" + blobserver.Account + "/cont/site?endpoint=http://" + p.Addr + "/" + blobserver.Account, p
}

func must(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// open returns the units of a vault as its store.
func open(t *testing.T, urls []string) blob.Store {
	t.Helper()
	var copies []blob.Store
	for _, u := range urls {
		must(t, unit.Init(t.Context(), u))
		s, err := unit.Open(t.Context(), u)
		must(t, err)
		copies = append(copies, s)
	}
	return replica.New(copies...)
}

func content(seed uint64, size int) []byte {
	data := make([]byte, size)
	_, _ = rand.NewChaCha8([32]byte{byte(seed)}).Read(data) // never fails
	return data
}

// backUp writes one point of one disk.
func backUp(t *testing.T, v *vault.Vault, parent backstay.PointID, data []byte) (backstay.PointID, error) {
	t.Helper()
	id := backstay.PointID(ulid.Make().String())
	w, err := v.Begin(t.Context(), vault.WriteOptions{Point: id, Parent: parent})
	if err != nil {
		return id, err
	}
	defer w.Abort()
	if _, err := w.WriteDisk(t.Context(), vault.DiskSource{Target: "vda", Format: "raw", Image: image{bytes.NewReader(data)}}); err != nil {
		return id, err
	}
	facts := backstay.RecoveryPoint{ID: id, Time: time.Now().UTC(), Vault: "main", Consistency: backstay.CrashConsistent,
		VM: backstay.VMRef{Name: "web01", UUID: "0c3e1c58-20b7-4bd1-9a0b-b6b9b5a6e0a1", Host: "h1"}}
	_, err = w.Commit(t.Context(), facts, tier.Definition{InactiveXML: "<domain/>"})
	return id, err
}

func wantDisk(t *testing.T, v *vault.Vault, id backstay.PointID, want []byte) {
	t.Helper()
	ctx := blob.AllowCached(t.Context())
	p, err := v.OpenPoint(ctx, id)
	must(t, err)
	img, err := p.Disk(ctx, "vda")
	must(t, err)
	defer img.Close()
	got := make([]byte, img.Size())
	if _, err := img.ReadAt(got, 0); err != nil && !errors.Is(err, io.EOF) {
		t.Fatal(err)
	}
	if !bytes.Equal(got, want) {
		t.Errorf("the disk of point %s is not what was backed up", id)
	}
}

// wholeVault makes a vault on the units, backs up twice, and restores both points
// with nothing but the units and the recovery key.
func wholeVault(t *testing.T, urls []string, before func()) {
	identity, recipient, err := vault.NewIdentity()
	must(t, err)
	id, store := uuid.NewString(), open(t, urls)
	keyset, err := vault.Create(t.Context(), store, vault.CreateOptions{ID: id, Name: "main", Redundancy: backstay.LRS,
		Recipients: vault.Recipients(backstay.ForRecovery, recipient), Created: time.Now().UTC()})
	must(t, err)
	v, err := vault.Open(t.Context(), store, id, keyset)
	must(t, err)
	first := content(1, 20<<20)
	one, err := backUp(t, v, "", first)
	must(t, err)
	second := bytes.Clone(first)
	copy(second[5<<20:], content(2, 1<<20))
	before()
	two, err := backUp(t, v, one, second)
	must(t, err)

	again := open(t, urls)
	foundID, keys, err := vault.Unwrap(t.Context(), again, identity)
	must(t, err)
	reader, err := vault.Open(t.Context(), again, foundID, keys)
	must(t, err)
	before()
	wantDisk(t, reader, one, first)
	wantDisk(t, reader, two, second)
}

func TestAVaultOnS3(t *testing.T) {
	url, p := s3Unit(t)
	cacheDir := t.TempDir()
	wholeVault(t, []string{url + "&cache=" + cacheDir}, func() { p.CutDown(100_000); p.CutUp(500_000) })
	if p.Cuts() == 0 {
		t.Error("no connection was cut")
	}
	if kept, err := filepath.Glob(cacheDir + "/??/*"); err != nil || len(kept) == 0 {
		t.Errorf("the cache keeps nothing: %v", err)
	}
}

func TestAVaultOnAzureBlob(t *testing.T) {
	url, p := azureUnit(t)
	wholeVault(t, []string{url}, func() { p.CutDown(100_000); p.CutUp(500_000) })
	if p.Cuts() == 0 {
		t.Error("no connection was cut")
	}
}

func TestAVaultOfThreeKindsOfUnits(t *testing.T) {
	s3, cutS3 := s3Unit(t)
	azure, cutAzure := azureUnit(t)
	urls := []string{"file://" + t.TempDir(), s3, azure}
	wholeVault(t, urls, func() { cutS3.CutUp(300_000); cutAzure.CutUp(700_000) })
	if cutS3.Cuts() == 0 || cutAzure.Cuts() == 0 {
		t.Error("no connection was cut")
	}
	// Each kind holds the same objects.
	var all [][]blob.Info
	for _, u := range urls {
		s, err := unit.Open(t.Context(), u)
		must(t, err)
		var found []blob.Info
		must(t, s.List(t.Context(), "", func(i blob.Info) error { found = append(found, i); return nil }))
		all = append(all, found)
	}
	for i := range all {
		if len(all[i]) == 0 || len(all[i]) != len(all[0]) {
			t.Errorf("%s holds %d objects, %s %d", urls[i], len(all[i]), urls[0], len(all[0]))
			continue
		}
		for j, info := range all[i] {
			if info != all[0][j] {
				t.Errorf("%s holds %+v, not %+v", urls[i], info, all[0][j])
			}
		}
	}
}
