package vault

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier"
)

type (
	// Vault is an opened vault.
	Vault struct{}
	// Point is an opened point.
	Point struct{}
	// Writer writes one point. ParentNote says why the parent was not used.
	Writer struct{ ParentNote string }
)

func Create(ctx context.Context, s blob.Store, o CreateOptions) (backstay.Secret, error) {
	panic("soon")
}
func Unwrap(ctx context.Context, s blob.Store, identity backstay.Secret) (id string, master backstay.Secret, err error) {
	panic("soon")
}
func NewIdentity() (identity backstay.Secret, recipient string, err error) { panic("soon") }
func Open(ctx context.Context, s blob.Store, id string, master backstay.Secret) (*Vault, error) {
	panic("soon")
}
func (v *Vault) Points(ctx context.Context) ([]Header, error)                       { panic("soon") }
func (v *Vault) OpenPoint(ctx context.Context, id backstay.PointID) (*Point, error) { panic("soon") }
func (v *Vault) Begin(ctx context.Context, o WriteOptions) (*Writer, error)         { panic("soon") }
func (v *Vault) DropPoint(ctx context.Context, id backstay.PointID) error           { panic("soon") }
func (v *Vault) Usage(ctx context.Context) (backstay.VaultUsage, error)             { panic("soon") }
func (p *Point) Facts() backstay.RecoveryPoint                                      { panic("soon") }
func (p *Point) Definition() tier.Definition                                        { panic("soon") }
func (p *Point) Disk(ctx context.Context, target backstay.DiskTarget) (tier.Image, error) {
	panic("soon")
}
func (w *Writer) WriteDisk(ctx context.Context, d DiskSource) (DiskStats, error) { panic("soon") }
func (w *Writer) Commit(ctx context.Context, facts backstay.RecoveryPoint, def tier.Definition) (CommitStats, error) {
	panic("soon")
}
func (w *Writer) Abort() { panic("soon") }
