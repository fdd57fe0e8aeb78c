// Package azure is a storage unit in a container of Azure Blob Storage.
//
// An object is a block blob, written with one conditional Put Blob. It makes no
// containers and never tries a request again: that is for package retry.
package azure

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/policy"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/streaming"
	"github.com/Azure/azure-sdk-for-go/sdk/azcore/to"
	azblob "github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/blockblob"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/container"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/idle"
)

// Options say how to get to a container.
type Options struct {
	Prefix   string // what comes before the names of objects, without slashes at its ends
	Endpoint string // https://host:port/account where it is not Azure's own
	// AccountKey or SASToken is who we are; without both the container must be
	// open to everybody.
	AccountKey backstay.Secret
	SASToken   backstay.Secret
	Idle       time.Duration // give up after so long without progress; 0: idle.Limit
	URL        string        // how the unit calls itself
}

// Store is a storage unit in a container.
type Store struct {
	client *container.Client
	name   string // of the container
	prefix string // "" or ends with a slash
	place  blob.Place
}

// New returns the unit in a container of an account. Nothing is asked of the
// store yet.
func New(account, name string, o Options) (*Store, error) {
	endpoint := strings.TrimSuffix(o.Endpoint, "/")
	if endpoint == "" {
		endpoint = "https://" + account + ".blob.core.windows.net"
	}
	at := endpoint + "/" + name
	s := &Store{name: name, place: blob.Place{URL: o.URL, Device: at, Available: -1}}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	options := &container.ClientOptions{ClientOptions: policy.ClientOptions{
		Transport: &http.Client{Transport: idle.New(o.Idle, nil)},
		Retry:     policy.RetryOptions{MaxRetries: -1},
		Telemetry: policy.TelemetryOptions{Disabled: true},
	}}
	var err error
	switch key, token := string(o.AccountKey.Reveal()), string(o.SASToken.Reveal()); {
	case key != "":
		var shared *container.SharedKeyCredential
		if shared, err = container.NewSharedKeyCredential(account, key); err == nil {
			s.client, err = container.NewClientWithSharedKeyCredential(at, shared, options)
		}
	case token != "":
		s.client, err = container.NewClientWithNoCredential(at+"?"+strings.TrimPrefix(token, "?"), options)
	default:
		s.client, err = container.NewClientWithNoCredential(at, options)
	}
	if err != nil {
		// The SDK's error may repeat what it was given.
		return nil, backstay.Errorf(backstay.CodeUsage, "container %s of account %s cannot be used", name, account).
			Becausef("the key, the token or the endpoint is not of the form that it must have")
	}
	return s, nil
}

func (s *Store) blob(name string) *blockblob.Client {
	return s.client.NewBlockBlobClient(s.prefix + name)
}

// Put writes an object with one Put Blob that the store refuses if the name is
// taken.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	_, err := s.blob(name).Upload(ctx, streaming.NopCloser(bytes.NewReader(data)), &blockblob.UploadOptions{
		AccessConditions: &azblob.AccessConditions{
			ModifiedAccessConditions: &azblob.ModifiedAccessConditions{IfNoneMatch: to.Ptr(azcore.ETagAny)},
		},
	})
	if err != nil {
		return s.wrap("put", name, classify(ctx, err, true))
	}
	return nil
}

// Get reads a range of an object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return nil, err
	}
	if offset < 0 || length == 0 || length > math.MaxInt64-offset {
		return nil, s.byStat(ctx, name, offset, length)
	}
	options := &azblob.DownloadStreamOptions{}
	if offset > 0 || length > 0 {
		options.Range = azblob.HTTPRange{Offset: offset, Count: max(length, 0)} // 0: to the end
	}
	out, err := s.blob(name).DownloadStream(ctx, options)
	if bloberror.HasCode(err, bloberror.InvalidRange) {
		return nil, s.byStat(ctx, name, offset, length)
	}
	if err != nil {
		return nil, s.wrap("get", name, classify(ctx, err, false))
	}
	defer out.Body.Close()
	want, err := expected(out, offset, length)
	if err != nil {
		return nil, s.wrap("get", name, err)
	}
	data, err := blob.ReadExactly(out.Body, want)
	if err != nil {
		return nil, s.wrap("get", name, fmt.Errorf("%w: %w", blob.ErrAway, stopped(ctx, clean(err))))
	}
	return data, nil
}

// byStat answers what no request can ask: ranges of no bytes, and whether a range
// lies outside the object. It returns nil for a range of no bytes within it.
func (s *Store) byStat(ctx context.Context, name string, offset, length int64) error {
	info, err := s.Stat(ctx, name)
	if err != nil {
		return err
	}
	from, until, err := blob.CheckRange(info.Size, offset, length)
	if err == nil && until > from {
		err = fmt.Errorf("%w: the store says that bytes %d to %d of %d are not there", blob.ErrAway, from, until, info.Size)
	}
	if err != nil {
		return s.wrap("get", name, err)
	}
	return nil
}

// expected returns how many bytes an answer has, or an error if it is not the
// range that was asked for.
func expected(out azblob.DownloadStreamResponse, offset, length int64) (int64, error) {
	if out.ContentLength == nil {
		return 0, fmt.Errorf("%w: the answer has no length", blob.ErrAway)
	}
	if length < 0 && offset == 0 {
		return *out.ContentLength, nil
	}
	said := ""
	if out.ContentRange != nil {
		said = *out.ContentRange
	}
	var from, last, size int64
	if _, err := fmt.Sscanf(said, "bytes %d-%d/%d", &from, &last, &size); err != nil {
		return 0, fmt.Errorf("%w: the store ignored the range: it answers %q with %d bytes", blob.ErrAway, said, *out.ContentLength)
	}
	_, until, err := blob.CheckRange(size, offset, length)
	if err != nil {
		return 0, err
	}
	if from != offset || last != until-1 || *out.ContentLength != until-offset {
		return 0, fmt.Errorf("%w: %q with %d bytes is not the range that was asked for", blob.ErrAway, said, *out.ContentLength)
	}
	return until - offset, nil
}

// Stat describes one object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return blob.Info{}, err
	}
	out, err := s.blob(name).GetProperties(ctx, nil)
	if err != nil {
		return blob.Info{}, s.wrap("stat", name, classify(ctx, err, false))
	}
	if out.ContentLength == nil {
		return blob.Info{}, s.wrap("stat", name, fmt.Errorf("%w: the answer has no length", blob.ErrAway))
	}
	return blob.Info{Name: name, Size: *out.ContentLength}, nil
}

// List calls fn for the objects whose names start with prefix, page by page. A
// store that does not list in order of name (an account with a hierarchical
// namespace) is an error: there is nothing to tell a complete listing from.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	pages := s.client.NewListBlobsFlatPager(&container.ListBlobsFlatOptions{Prefix: to.Ptr(s.prefix + prefix)})
	last := ""
	for pages.More() {
		page, err := pages.NextPage(ctx)
		if err != nil {
			return s.wrap("list", prefix, classify(ctx, err, false))
		}
		if page.Segment == nil {
			return s.wrap("list", prefix, fmt.Errorf("%w: the answer is not a listing", blob.ErrAway))
		}
		for _, item := range page.Segment.BlobItems {
			if item == nil || item.Name == nil || item.Properties == nil || item.Properties.ContentLength == nil {
				return s.wrap("list", prefix, fmt.Errorf("%w: the store lists an object without name or size", blob.ErrAway))
			}
			name, ok := strings.CutPrefix(*item.Name, s.prefix)
			if !ok || !strings.HasPrefix(name, prefix) {
				return s.wrap("list", prefix, fmt.Errorf("%w: the store lists %q, which was not asked for", blob.ErrAway, *item.Name))
			}
			if blob.CheckName(name) != nil {
				continue // not one of ours
			}
			if name <= last {
				return s.wrap("list", prefix, fmt.Errorf("the store lists %s behind %s: it does not list in order of name", name, last))
			}
			last = name
			if err := fn(blob.Info{Name: name, Size: *item.Properties.ContentLength}); err != nil {
				return err
			}
		}
	}
	return nil
}

// Delete removes an object. One that the store keeps immutable is ErrReadOnly,
// with the store's reason.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	_, err := s.blob(name).Delete(ctx, nil)
	if err == nil || bloberror.HasCode(err, bloberror.BlobNotFound) {
		return nil
	}
	return s.wrap("delete", name, classify(ctx, err, true))
}

// Describe returns the URL and, as the device, the endpoint with the container.
func (s *Store) Describe(context.Context) (blob.Place, error) { return s.place, nil }

func (s *Store) wrap(verb, name string, err error) error {
	return fmt.Errorf("%s %s in container %s: %w", verb, strconv.Quote(name), s.name, err)
}
