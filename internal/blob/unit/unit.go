// Package unit turns the URL of a storage unit into the store behind it: it is the
// one place that knows which scheme is which adapter, and what is wrapped around it.
//
// It knows nothing of vaults, and asks no server: who calls it has the URL.
package unit

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"

	"golang.org/x/sys/unix"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/azure"
	"github.com/backstay/backstay/internal/blob/cache"
	"github.com/backstay/backstay/internal/blob/count"
	"github.com/backstay/backstay/internal/blob/file"
	"github.com/backstay/backstay/internal/blob/limit"
	"github.com/backstay/backstay/internal/blob/mem"
	"github.com/backstay/backstay/internal/blob/retry"
	"github.com/backstay/backstay/internal/blob/s3"
)

// Options change how a unit is opened; the zero value is right.
type Options struct {
	// Wrap is put around the store and all its wrappers: how a sandbox plants
	// faults that nothing mends.
	Wrap func(url string, s blob.Store) blob.Store
	// Signs are files or folders of which one makes a directory a unit to read
	// from, also if it was never made one: a copy of a unit, for instance.
	Signs []string
}

// Open returns the unit at a URL. Nothing is asked of the unit yet: that it is
// there is found by the first call.
func Open(ctx context.Context, raw string) (blob.Store, error) {
	return Options{}.Open(ctx, raw)
}

// Open returns the unit at a URL, opened with the options.
func (o Options) Open(ctx context.Context, raw string) (blob.Store, error) {
	u, err := Parse(raw)
	if err != nil {
		return nil, err
	}
	set, err := u.settings()
	if err != nil {
		return nil, err
	}
	s, err := adapter(ctx, u, set)
	if err != nil {
		return nil, err
	}
	if u.Kind == File && len(o.Signs) > 0 {
		s = file.Holding(u.Path, o.Signs...)
	}
	counted := count.Wrap(s)
	s = counted
	if set.rate > 0 || set.requests > 0 {
		s = limit.Wrap(s, limit.Options{Rate: set.rate, Requests: set.requests})
	}
	s = retry.Wrap(s, retry.Options{Retriable: retriable[u.Kind]})
	if set.cache != "" {
		s = cache.Wrap(s, cache.Options{Dir: set.cache, Unit: u.identity(), Size: set.cacheSize})
	}
	if o.Wrap != nil {
		s = o.Wrap(u.String(), s)
	}
	return opened{s, counted}, nil
}

// opened is a unit with all that is wrapped around it. What it counts is what
// reached the unit: the attempts one by one, and nothing that a cache answered.
type opened struct {
	blob.Store
	counted *count.Store
}

// Requests implements blob.Counter.
func (o opened) Requests() int64 { return o.counted.Requests() }

// Describe implements blob.Describer.
func (o opened) Describe(ctx context.Context) (blob.Place, error) {
	if d, ok := o.Store.(blob.Describer); ok {
		return d.Describe(ctx)
	}
	return blob.Place{Available: -1}, nil
}

// retriable says what to try again, where it is not retry's own rule. A directory
// that is not there is not there a moment later either; but one on NFS may have
// lost its handle.
var retriable = map[Kind]func(error) bool{
	File: func(err error) bool { return errors.Is(err, unix.ESTALE) || errors.Is(err, unix.ETIMEDOUT) },
	Mem:  func(error) bool { return false },
}

// adapter returns the store itself.
func adapter(ctx context.Context, u URL, set settings) (blob.Store, error) {
	switch u.Kind {
	case File:
		return file.New(u.Path), nil
	case Mem:
		return memory(u.Host), nil
	case S3:
		c, err := credentials(u)
		if err != nil {
			return nil, err
		}
		return s3.New(ctx, u.Host, s3.Options{
			Prefix: u.Path, Endpoint: u.Options["endpoint"], Region: u.Options["region"], PathStyle: set.pathStyle, Idle: set.idle, URL: u.String(),
			Credentials: s3.Credentials{AccessKeyID: c.AccessKeyID, SecretAccessKey: c.secret(c.SecretAccessKey), SessionToken: c.secret(c.SessionToken)},
		})
	case Azure:
		c, err := credentials(u)
		if err != nil {
			return nil, err
		}
		name, prefix, _ := strings.Cut(u.Path, "/")
		return azure.New(u.Host, name, azure.Options{
			Prefix: prefix, Endpoint: u.Options["endpoint"], Idle: set.idle, URL: u.String(),
			AccountKey: c.secret(c.AccountKey), SASToken: c.secret(c.SASToken),
		})
	}
	return nil, badURL("%q is not a kind of storage unit", u.Kind)
}

// memories are the units in memory of this process, by name.
var memories = struct {
	sync.Mutex
	byName map[string]*mem.Store // guarded by the mutex
}{byName: map[string]*mem.Store{}}

func memory(name string) *mem.Store {
	memories.Lock()
	defer memories.Unlock()
	if memories.byName[name] == nil {
		memories.byName[name] = mem.New()
	}
	return memories.byName[name]
}

// Init makes a place ready to be a storage unit: a directory is made and marked;
// a bucket or container must be there and answer. What is a unit already stays
// as it is.
func Init(ctx context.Context, raw string) error {
	u, err := Parse(raw)
	if err != nil {
		return err
	}
	switch u.Kind {
	case File:
		err = file.Init(u.Path)
	default:
		err = answers(ctx, u)
	}
	if errors.Is(err, blob.ErrDenied) {
		return backstay.Errorf(backstay.CodeVaultAway, "storage unit %s cannot be used", u).Because(err).
			Do("make the bucket or container first, and give the server and each mover credentials for it; see docs/storage-units.md")
	}
	if errors.Is(err, file.ErrNotEmpty) {
		return backstay.Errorf(backstay.CodeExists, "storage unit %s cannot be made", u).Because(err).
			Do("give a folder that is empty or not there yet: nothing in it is removed")
	}
	var told *backstay.Error // of credentials that cannot be used, for instance
	if err == nil || errors.As(err, &told) {
		return err
	}
	return backstay.Errorf(backstay.CodeVaultAway, "storage unit %s cannot be made", u).Because(err)
}

// answers asks for an object that need not be there.
func answers(ctx context.Context, u URL) error {
	s, err := Open(ctx, u.String())
	if err != nil {
		return err
	}
	if _, err = s.Stat(ctx, "vault.json"); errors.Is(err, blob.ErrNotExist) {
		return nil
	}
	return err
}

// Trial opens a unit to be tried out, and returns what must be called when that
// is done. A directory that is not a unit yet is tried in a folder of its own,
// which is removed then: nothing makes a directory a unit by accident, because
// one in which a disk should be mounted must never look like an empty unit (I5).
func (o Options) Trial(ctx context.Context, raw string) (blob.Store, func() error, error) {
	u, err := Parse(raw)
	if err != nil {
		return nil, nil, err
	}
	done := func() error { return nil }
	if u.Kind == File && !file.IsUnit(u.Path) {
		dir, err := os.MkdirTemp(u.Path, ".backstay-check-")
		if err != nil {
			return nil, nil, backstay.Errorf(backstay.CodeVaultAway, "%s cannot be tried", u).Because(err).
				Do("make the directory first, and mount what belongs there")
		}
		done = func() error { return os.RemoveAll(dir) }
		if err := file.Init(dir); err != nil {
			return nil, nil, errors.Join(fmt.Errorf("try %s: %w", u, err), done())
		}
		u.Path = dir
	}
	s, err := o.Open(ctx, u.String())
	if err != nil {
		return nil, nil, errors.Join(err, done())
	}
	return s, done, nil
}
