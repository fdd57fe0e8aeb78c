// Package s3 is a storage unit in a bucket of an S3 store.
//
// It relies on no more than what all of these stores do alike: one conditional PUT
// of a whole object, ranged GETs, and listings in order of name. It makes no
// buckets, sends no multipart uploads and never tries a request again: that is
// for package retry.
package s3

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"math"
	"net/http"
	"strconv"
	"strings"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/config"
	"github.com/aws/aws-sdk-go-v2/credentials"
	"github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/smithy-go/logging"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/idle"
)

// Credentials are static ones. With the zero value the SDK looks for its own, in
// the environment, in the files it knows, and at the cloud's metadata service.
type Credentials struct {
	AccessKeyID     string
	SecretAccessKey backstay.Secret
	SessionToken    backstay.Secret
}

// Options say how to get to a bucket. The zero value of each is right for AWS.
type Options struct {
	Prefix      string        // what comes before the names of objects, without slashes at its ends
	Endpoint    string        // https://host:port; empty: the region's of AWS
	Region      string        // empty: what the environment says, or us-east-1
	PathStyle   bool          // the bucket in the path, not in the host's name
	Credentials Credentials   // zero: the SDK's default chain
	Idle        time.Duration // give up after so long without progress; 0: idle.Limit
	URL         string        // how the unit calls itself
}

// Store is a storage unit in a bucket.
type Store struct {
	client *s3.Client
	bucket string
	prefix string // "" or ends with a slash
	place  blob.Place
}

// New returns the unit in a bucket. Nothing is asked of the store yet.
func New(ctx context.Context, bucket string, o Options) (*Store, error) {
	load := []func(*config.LoadOptions) error{
		config.WithRetryer(func() aws.Retryer { return aws.NopRetryer{} }),
		config.WithLogger(logging.Nop{}), // what goes wrong is in the errors
	}
	if o.Region != "" {
		load = append(load, config.WithRegion(o.Region))
	}
	if c := o.Credentials; c.AccessKeyID != "" {
		load = append(load, config.WithCredentialsProvider(credentials.NewStaticCredentialsProvider(
			c.AccessKeyID, string(c.SecretAccessKey.Reveal()), string(c.SessionToken.Reveal()))))
	}
	cfg, err := config.LoadDefaultConfig(ctx, load...)
	if err != nil {
		return nil, fmt.Errorf("set up S3 for bucket %s: %w", bucket, err)
	}
	if cfg.Region == "" {
		cfg.Region = "us-east-1"
	}
	cfg.Credentials = named{cfg.Credentials}
	s := &Store{bucket: bucket, place: blob.Place{URL: o.URL, Available: -1}}
	if o.Prefix != "" {
		s.prefix = o.Prefix + "/"
	}
	s.client = s3.NewFromConfig(cfg, func(c *s3.Options) {
		c.UsePathStyle = o.PathStyle
		c.HTTPClient = &http.Client{Transport: idle.New(o.Idle, roots(cfg))}
		if o.Endpoint != "" {
			c.BaseEndpoint = aws.String(o.Endpoint)
		}
	})
	endpoint := o.Endpoint
	if endpoint == "" {
		endpoint = "s3 " + cfg.Region
	}
	s.place.Device = endpoint + "/" + bucket
	return s, nil
}

// roots returns the certificates of the SDK's configuration (AWS_CA_BUNDLE); nil
// for the system's.
func roots(cfg aws.Config) *x509.CertPool {
	if c, ok := cfg.HTTPClient.(interface{ GetTransport() *http.Transport }); ok {
		if t := c.GetTransport(); t.TLSClientConfig != nil {
			return t.TLSClientConfig.RootCAs
		}
	}
	return nil
}

// named makes it known that an error is about the credentials.
type named struct{ aws.CredentialsProvider }

// Retrieve returns the credentials, or blob.ErrDenied with the reason.
func (n named) Retrieve(ctx context.Context) (aws.Credentials, error) {
	c, err := n.CredentialsProvider.Retrieve(ctx)
	if err != nil {
		return c, fmt.Errorf("%w: %w", blob.ErrDenied, err)
	}
	return c, nil
}

// key returns an object's key in the bucket.
func (s *Store) key(name string) *string { return aws.String(s.prefix + name) }

// Put writes an object with one PUT that the store refuses if the name is taken.
func (s *Store) Put(ctx context.Context, name string, data []byte) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	_, err := s.client.PutObject(ctx, &s3.PutObjectInput{
		Bucket: &s.bucket, Key: s.key(name), Body: bytes.NewReader(data),
		ContentLength: aws.Int64(int64(len(data))), IfNoneMatch: aws.String("*"),
	})
	if err == nil {
		return nil
	}
	if status(err) == http.StatusConflict && code(err) != "InvalidBucketState" {
		// A conflict is another request for the name at the same time. Whether it
		// left an object, only the object says.
		if _, statErr := s.Stat(ctx, name); errors.Is(statErr, blob.ErrNotExist) {
			return s.wrap("put", name, fmt.Errorf("%w: %w", blob.ErrAway, err))
		} else if statErr != nil {
			return statErr
		}
		return s.wrap("put", name, fmt.Errorf("%w: %w", blob.ErrExist, err))
	}
	return s.wrap("put", name, classify(ctx, err, true))
}

// Get reads a range of an object.
func (s *Store) Get(ctx context.Context, name string, offset, length int64) ([]byte, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return nil, err
	}
	if offset < 0 || length == 0 || length > math.MaxInt64-offset {
		return nil, s.byStat(ctx, name, offset, length)
	}
	in := &s3.GetObjectInput{Bucket: &s.bucket, Key: s.key(name)}
	switch {
	case length > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-%d", offset, offset+length-1))
	case offset > 0:
		in.Range = aws.String(fmt.Sprintf("bytes=%d-", offset))
	}
	out, err := s.client.GetObject(ctx, in)
	if status(err) == http.StatusRequestedRangeNotSatisfiable {
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
	// The SDK checks the store's checksum when the body ends.
	data, err := blob.ReadExactly(out.Body, want)
	if err != nil {
		return nil, s.wrap("get", name, fmt.Errorf("%w: %w", blob.ErrAway, stopped(ctx, err)))
	}
	return data, nil
}

// byStat answers what no GET can ask: ranges of no bytes, and whether a range
// lies outside the object. It returns nil for a range of no bytes within it.
func (s *Store) byStat(ctx context.Context, name string, offset, length int64) error {
	info, err := s.Stat(ctx, name)
	if err != nil {
		return err
	}
	from, to, err := blob.CheckRange(info.Size, offset, length)
	if err == nil && to > from {
		err = fmt.Errorf("%w: the store says that bytes %d to %d of %d are not there", blob.ErrAway, from, to, info.Size)
	}
	if err != nil {
		return s.wrap("get", name, err)
	}
	return nil
}

// expected returns how many bytes an answer has, or an error if it is not the
// range that was asked for.
func expected(out *s3.GetObjectOutput, offset, length int64) (int64, error) {
	if out.ContentLength == nil {
		return 0, fmt.Errorf("%w: the answer has no length", blob.ErrAway)
	}
	if length < 0 && offset == 0 {
		return *out.ContentLength, nil
	}
	var from, last, size int64
	if _, err := fmt.Sscanf(aws.ToString(out.ContentRange), "bytes %d-%d/%d", &from, &last, &size); err != nil {
		return 0, fmt.Errorf("%w: the store ignored the range: it answers %q with %d bytes", blob.ErrAway, aws.ToString(out.ContentRange), *out.ContentLength)
	}
	_, to, err := blob.CheckRange(size, offset, length)
	if err != nil {
		return 0, err
	}
	if from != offset || last != to-1 || *out.ContentLength != to-offset {
		return 0, fmt.Errorf("%w: %q with %d bytes is not the range that was asked for", blob.ErrAway, *out.ContentRange, *out.ContentLength)
	}
	return to - offset, nil
}

// Stat describes one object.
func (s *Store) Stat(ctx context.Context, name string) (blob.Info, error) {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return blob.Info{}, err
	}
	out, err := s.client.HeadObject(ctx, &s3.HeadObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if status(err) == http.StatusNotFound {
		// The answer to a HEAD has no body, so it may mean the object or the bucket.
		if _, bucketErr := s.client.HeadBucket(ctx, &s3.HeadBucketInput{Bucket: &s.bucket}); bucketErr != nil {
			return blob.Info{}, s.wrap("stat", name, s.bucketAway(ctx, bucketErr))
		}
		return blob.Info{}, s.wrap("stat", name, blob.ErrNotExist)
	}
	if err != nil {
		return blob.Info{}, s.wrap("stat", name, classify(ctx, err, false))
	}
	if out.ContentLength == nil {
		return blob.Info{}, s.wrap("stat", name, fmt.Errorf("%w: the answer has no length", blob.ErrAway))
	}
	return blob.Info{Name: name, Size: *out.ContentLength}, nil
}

// bucketAway is the error of asking for the bucket itself: whatever it is, it says
// nothing of any object (I5).
func (s *Store) bucketAway(ctx context.Context, err error) error {
	if status(err) == http.StatusNotFound {
		return fmt.Errorf("%w: %w: there is no bucket %s", blob.ErrAway, blob.ErrDenied, s.bucket)
	}
	return classify(ctx, err, false)
}

// List calls fn for the objects whose names start with prefix, page by page. A
// store that does not list in order of name is an error: there is nothing to
// tell a complete listing from.
func (s *Store) List(ctx context.Context, prefix string, fn func(blob.Info) error) error {
	in := &s3.ListObjectsV2Input{Bucket: &s.bucket, Prefix: s.key(prefix)}
	last := ""
	for {
		page, err := s.client.ListObjectsV2(ctx, in)
		if err != nil {
			return s.wrap("list", prefix, classify(ctx, err, false))
		}
		for _, o := range page.Contents {
			name, ok := strings.CutPrefix(aws.ToString(o.Key), s.prefix)
			if !ok || !strings.HasPrefix(name, prefix) {
				return s.wrap("list", prefix, fmt.Errorf("%w: the store lists %q, which was not asked for", blob.ErrAway, aws.ToString(o.Key)))
			}
			if blob.CheckName(name) != nil {
				continue // not one of ours
			}
			if name <= last {
				return s.wrap("list", prefix, fmt.Errorf("the store lists %s behind %s: it does not list in order of name", name, last))
			}
			last = name
			if err := fn(blob.Info{Name: name, Size: aws.ToInt64(o.Size)}); err != nil {
				return err
			}
		}
		if !aws.ToBool(page.IsTruncated) {
			return nil
		}
		next := aws.ToString(page.NextContinuationToken)
		if next == "" || next == aws.ToString(in.ContinuationToken) {
			return s.wrap("list", prefix, fmt.Errorf("%w: the listing is cut short: it says that there is more and not where", blob.ErrAway))
		}
		in.ContinuationToken = page.NextContinuationToken
	}
}

// Delete removes an object. One that the store holds under a lock is ErrReadOnly,
// with the store's reason.
func (s *Store) Delete(ctx context.Context, name string) error {
	if err := errors.Join(blob.CheckName(name), ctx.Err()); err != nil {
		return err
	}
	_, err := s.client.DeleteObject(ctx, &s3.DeleteObjectInput{Bucket: &s.bucket, Key: s.key(name)})
	if err == nil || code(err) == "NoSuchKey" {
		return nil
	}
	return s.wrap("delete", name, classify(ctx, err, true))
}

// Describe returns the URL and, as the device, the store with the bucket.
func (s *Store) Describe(context.Context) (blob.Place, error) { return s.place, nil }

func (s *Store) wrap(verb, name string, err error) error {
	return fmt.Errorf("%s %s in bucket %s: %w", verb, strconv.Quote(name), s.bucket, err)
}
