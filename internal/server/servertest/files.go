package servertest

import (
	"context"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/mover/movertest"
	"github.com/backstay/backstay/internal/server"
	"github.com/oklog/ulid/v2"
)

// fileSessions shows the real sessions to the server.
type fileSessions struct{ *files.Sessions }

func (s fileSessions) OpenSession(ctx context.Context, r server.FileOpen) (backstay.FileSession, string, error) {
	return s.Open(ctx, files.OpenRequest(r))
}

// PlainToken makes a token without the right to files, which those of Tokens have.
func (w *World) PlainToken(ctx context.Context, role backstay.Role) (string, error) {
	secret, hash := server.NewTokenSecret()
	return secret, w.Catalog.Tokens.PutToken(ctx, backstay.Token{ID: "plain-" + string(role), Name: "plain-" + string(role), Role: role, Created: Now}, hash)
}

// vaultKey opens the vault of the mover in memory.
const vaultKey = "the vault's key"

// openFiles makes the real sessions over a mover in memory, which has the points that
// are available.
func (w *World) openFiles() {
	key := []byte(vaultKey)
	w.Files = movertest.NewFake(key)
	disks := []backstay.PointDisk{{Target: "vda", Size: 1 << 20, Included: true}, {Target: "vdb", Size: 2 << 20, Included: true}}
	w.Files.AddPoint(PointBoth, disks, backstay.SnapshotTier, backstay.VaultTier)
	w.Files.AddPoint(PointSnapshot, disks, backstay.SnapshotTier)
	w.Files.AddPoint(PointGone, disks, backstay.VaultTier)
	w.Files.AddPoint(PointPinned, disks, backstay.VaultTier)
	w.Sessions = files.New(files.Options{
		Hosts: w.Catalog.Hosts, Services: func() []mover.KeyService { return nil }, Now: func() time.Time { return Now },
		NewID: func() backstay.FileSessionID { return backstay.FileSessionID(ulid.Make().String()) },
		Mover: func(name backstay.HostName) (mover.Files, error) { return w.Files, nil },
		Vault: func(_ context.Context, name backstay.VaultName) (mover.VaultAccess, error) {
			return mover.VaultAccess{Name: name, Key: backstay.NewSecret(key)}, nil
		},
	})
}
