package daemon

import (
	"context"

	"github.com/oklog/ulid/v2"

	backstay "github.com/backstay/backstay"
	sessions "github.com/backstay/backstay/internal/engine/files"
	"github.com/backstay/backstay/internal/mover"
	"github.com/backstay/backstay/internal/server"
)

// fileSessions shows the sessions of item-level restore as the server wants to see them.
type fileSessions struct{ *sessions.Sessions }

// OpenSession implements server.FileSessions.
func (s fileSessions) OpenSession(ctx context.Context, r server.FileOpen) (backstay.FileSession, string, error) {
	return s.Open(ctx, sessions.OpenRequest(r))
}

// fileSessions makes the sessions of the region: none yet.
func (r *region) fileSessions() *sessions.Sessions {
	return sessions.New(sessions.Options{
		Hosts: r.catalog.Hosts, Vault: r.vaults.access, Services: r.keyServices, Now: utcNow, Log: r.log,
		NewID: func() backstay.FileSessionID { return backstay.FileSessionID(ulid.Make().String()) },
		Mover: func(name backstay.HostName) (mover.Files, error) { return r.hosts.mover(name) },
	})
}

// reachedFiles ends on a host what an earlier server has left open there.
func (r *region) reachedFiles(ctx context.Context, name backstay.HostName) {
	if err := r.files.Reached(ctx, name); err != nil && ctx.Err() == nil {
		r.log.Warn("what an earlier server left open for files could not be ended; it ends when it expires", "host", name, "error", err)
	}
}
