//go:build integration && soak

package daemon

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobserver"
	"github.com/backstay/backstay/internal/catalog/sqlite"
	"github.com/backstay/backstay/internal/engine/verify"
	keyfile "github.com/backstay/backstay/internal/keyring/file"
	"github.com/backstay/backstay/internal/mover"
)

// gone ends a server behind so many puts of its unit.
type gone struct {
	blob.Store
	left   *atomic.Int64
	server *blobserver.Server
}

func (g gone) Put(ctx context.Context, name string, data []byte) error {
	if g.left.Add(-1) == 0 {
		g.server.Stop()
	}
	return g.Store.Put(ctx, name, data)
}

// Three zones are three S3 servers on ports of their own. Each in turn goes away in
// the middle of a commit: the point is in the other two. When it is back it is filled,
// and no copy is short of anything.
func TestThreeZonesOnThreeServersOfWhichAnyMayGo(t *testing.T) {
	ctx := t.Context()
	t.Setenv("AWS_ACCESS_KEY_ID", blobserver.AccessKey)
	t.Setenv("AWS_SECRET_ACCESS_KEY", blobserver.SecretKey)
	c, err := sqlite.Open(ctx, filepath.Join(t.TempDir(), "catalog.db"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() })
	var left [3]atomic.Int64
	servers := map[string]int{}
	var zones []*blobserver.Server
	request := api.CreateVaultRequest{Name: "main", Redundancy: backstay.ZRS}
	for i := range 3 {
		s := blobserver.S3(t, "bucket")
		url := "s3://bucket/site?endpoint=http://" + s.Addr + "&path-style=true&region=us-east-1&timeout=1s"
		zones, servers[s.Addr] = append(zones, s), i
		request.Units = append(request.Units, api.NewUnit{URL: url, Zone: fmt.Sprint(i + 1)})
	}
	w := &witnessed{t: t, name: "main", vaults: &vaults{catalog: c, keys: keyfile.New(filepath.Join(t.TempDir(), "keys")), now: time.Now,
		opened: map[backstay.VaultName]mover.VaultAccess{}}}
	w.vaults.units.hooks.Unit = func(url string, s blob.Store) blob.Store {
		for addr, i := range servers {
			if strings.Contains(url, addr) {
				return gone{s, &left[i], zones[i]}
			}
		}
		return s
	}
	_, _, err = w.CreateVault(ctx, request)
	w.must(err)
	w.must(w.backup(firstPoint))
	for i, zone := range zones {
		id := backstay.PointID(fmt.Sprintf("01KAMZ0000000000000000001%d", i))
		left[i].Store(2)
		w.must(w.backupAgain(id, byte(i)))
		v, err := w.entry(ctx, "main")
		w.must(err)
		if v.Units[i].Standing != backstay.Behind || v.Short() != 1 {
			t.Fatalf("zone %d went: %+v", i+1, v.Units)
		}
		w.demandPoints(2 + i)
		w.reads(id, byte(i))
		zone.Start()
		if v = w.settle(); v.Copies != 3 || v.Short() != 0 {
			t.Fatalf("zone %d is back: %+v", i+1, v)
		}
		opened, err := w.openWhole(ctx, "main")
		w.must(err)
		found, err := opened.Scrub(ctx, verify.ScrubOptions{})
		w.must(errors.Join(err, opened.Close()))
		if len(found.Damages) != 0 || found.Unproved != 0 {
			t.Fatalf("zone %d is back: %v", i+1, found.Damages)
		}
	}
}

// backupAgain commits a point, and once more if a unit is lost meanwhile.
func (w *witnessed) backupAgain(id backstay.PointID, seed byte) error {
	var packs []string
	err := w.transfer(id, seed, &packs)
	if err == nil {
		return errors.New("nothing was lost in the middle of it")
	}
	if told, err := w.lostMeanwhile(w.t.Context(), "main"); err != nil || len(told) != 1 {
		return fmt.Errorf("recorded %q: %w", told, err)
	}
	return w.transfer(id, seed, &packs)
}
