package inside

import (
	"context"
	"crypto/sha256"
	"errors"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// hashWorkers read files at once: hashing needs the processor, reading waits for a vault.
const hashWorkers = 4

// hash answers OpHash. What is no file, or cannot be read whole, has no hash.
func (t *tree) hash(ctx context.Context, r wire.HashRequest) (wire.Hashes, error) {
	if len(r.Paths) > wire.MaxHashes {
		return wire.Hashes{}, backstay.Errorf(backstay.CodeUsage, "%d files are too many to hash at once", len(r.Paths))
	}
	all := wire.Hashes{SHA256: make([][]byte, len(r.Paths))}
	read := make([]int64, len(r.Paths))
	group, ctx := errgroup.WithContext(ctx)
	group.SetLimit(hashWorkers)
	for i, path := range r.Paths {
		group.Go(func() (err error) {
			all.SHA256[i], read[i], err = t.hashFile(ctx, path)
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return wire.Hashes{}, err
	}
	for _, n := range read {
		all.Read += n
	}
	return all, nil
}

// hashFile returns an error only if ctx ended.
func (t *tree) hashFile(ctx context.Context, path backstay.FilePath) ([]byte, int64, error) {
	fd, st, err := t.openFile(path)
	if err != nil {
		return nil, 0, ctx.Err()
	}
	defer unix.Close(fd)
	sum := sha256.New()
	at, err := copyRange(ctx, fd, extent{0, st.Size}, func(_ int64, data []byte) error {
		sum.Write(data)
		return nil
	})
	var failed *readError
	if errors.As(err, &failed) || err == nil && at < st.Size {
		return nil, at, nil
	}
	if err != nil {
		return nil, at, err
	}
	return sum.Sum(nil), at, nil
}
