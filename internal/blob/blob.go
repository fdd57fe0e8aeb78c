// Package blob is the port to a storage unit: a flat place for immutable named
// objects. It says what a vault wants of a store, not what S3 or a file system has.
//
// Adapters (file, mem) and wrappers (replica, fault) live below it and pass blobtest.
package blob

import (
	"context"
	"errors"
)

// Errors by which callers decide. Adapters wrap them.
var (
	// ErrNotExist: there is no object of this name.
	ErrNotExist = errors.New("object does not exist")
	// ErrExist: an object of this name is there already, and was left as it is.
	ErrExist = errors.New("object exists")
	// ErrReadOnly: the store refuses to be written to.
	ErrReadOnly = errors.New("storage unit is read-only")
	// ErrFull: the store has no room.
	ErrFull = errors.New("storage unit is full")
	// ErrAway: the store cannot be reached; says nothing of its objects (I5).
	ErrAway = errors.New("storage unit cannot be reached")
	// ErrDenied comes with ErrAway when trying again will not help: the store does
	// not know our credentials, or has no such bucket.
	ErrDenied = errors.New("access is denied, or there is no such bucket or container")
)

// Info describes an object.
type Info struct {
	Name string
	Size int64
}

// Store holds objects. Names are slash-separated, of letters, digits, '-', '_'
// and '.', and never start with a slash. Every method may be called concurrently.
type Store interface {
	// Put writes an object that must not be there yet, whole or not at all.
	// When it returns nil the object survives a power loss. ErrExist if the name
	// is taken, whatever the content: of two writers one gets ErrExist, and then the
	// object that is there survives a power loss too. After any
	// other error the object may be there or not, but never in part: a caller
	// that must know reads it.
	Put(ctx context.Context, name string, data []byte) error
	// Get reads length bytes at offset; a negative length means to the end. A
	// range that reaches behind the object's end is an error, never a short answer.
	Get(ctx context.Context, name string, offset, length int64) ([]byte, error)
	// Stat describes one object, or ErrNotExist.
	Stat(ctx context.Context, name string) (Info, error)
	// List calls fn for each object whose name starts with prefix, in order of
	// name. An object whose Put returned before List began is listed. An error
	// of the store or of fn ends it: a listing that returned nil is complete.
	List(ctx context.Context, prefix string, fn func(Info) error) error
	// Delete removes an object. No error if it is not there.
	Delete(ctx context.Context, name string) error
}

// Describer is an optional interface of a Store: what kind of place it is.
type Describer interface {
	// Describe returns the URL and an identifier of the physical device, so
	// that copies on one device can be told from copies on several (I13).
	Describe(ctx context.Context) (Place, error)
}

// Place is what a store says of itself.
type Place struct {
	URL       string
	Device    string
	Available int64 // bytes left; -1 when unknown
}

// Copies is an optional interface of a Store that keeps several copies of every
// object: Put returns when all of them are durable, Get answers from any.
type Copies interface {
	// Copies returns one Store for each copy, in a fixed order. Reading a single
	// copy is how a read-back and a repair tell a damaged copy from a sound one.
	Copies() []Store
}

// Preferring is an optional interface of a Store that is Copies: which of them to
// read first. One that failed is left for last for a while, so that a copy that hangs
// costs one time-out and not one for each object.
type Preferring interface {
	// ReadOrder returns the numbers of the copies, the best to be asked first. It may
	// put one that failed first again for this one caller, who thereby tries it.
	ReadOrder() []int
	// ReadEnded is told what came of reading from a copy.
	ReadEnded(copy int, err error)
}

// Counter is an optional interface of a Store that counts its requests.
type Counter interface {
	// Requests is the number of requests so far, failed ones included.
	Requests() int64
}

type cachedKey struct{}

// AllowCached returns a context whose Gets may be answered by a cache of what was
// read before. Only who checks each byte that he gets (a restore, which opens what
// is sealed) may allow it; who verifies a store, or reads back what he wrote, must
// not, and without this a Get asks the store.
func AllowCached(ctx context.Context) context.Context {
	return context.WithValue(ctx, cachedKey{}, true)
}

// Uncached returns a context whose Gets ask the store, whatever a caller allowed.
func Uncached(ctx context.Context) context.Context {
	return context.WithValue(ctx, cachedKey{}, false)
}

// CachedAllowed tells whether a cache may answer.
func CachedAllowed(ctx context.Context) bool {
	allowed, _ := ctx.Value(cachedKey{}).(bool)
	return allowed
}
