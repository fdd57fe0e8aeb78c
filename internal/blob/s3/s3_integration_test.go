//go:build integration

package s3_test

import (
	"errors"
	"fmt"
	"sync/atomic"
	"testing"
	"time"

	"github.com/aws/aws-sdk-go-v2/aws"
	"github.com/aws/aws-sdk-go-v2/credentials"
	sdk "github.com/aws/aws-sdk-go-v2/service/s3"
	"github.com/aws/aws-sdk-go-v2/service/s3/types"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/blobserver"
	"github.com/backstay/backstay/internal/blob/blobtest"
	"github.com/backstay/backstay/internal/blob/conform"
	"github.com/backstay/backstay/internal/blob/s3"
)

func open(t *testing.T, addr string, o s3.Options) blob.Store {
	t.Helper()
	o.Endpoint, o.PathStyle, o.Region = "http://"+addr, true, "us-east-1"
	if o.Credentials.AccessKeyID == "" {
		o.Credentials = s3.Credentials{AccessKeyID: blobserver.AccessKey, SecretAccessKey: backstay.NewSecret([]byte(blobserver.SecretKey))}
	}
	s, err := s3.New(t.Context(), "bucket", o)
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func TestConformance(t *testing.T) {
	server := blobserver.S3(t, "bucket")
	var n atomic.Int32
	blobtest.RunSized(t, conform.Options{}, func(t *testing.T) blob.Store {
		return open(t, server.Addr, s3.Options{Prefix: fmt.Sprintf("site/%d", n.Add(1))})
	})
}

func TestConformanceWithoutAPrefix(t *testing.T) {
	blobtest.Run(t, func(t *testing.T) blob.Store { return open(t, blobserver.S3(t, "bucket").Addr, s3.Options{}) })
}

func TestTroubles(t *testing.T) {
	blobserver.Troubles(t, blobserver.S3(t, "bucket"), func(t *testing.T, addr string, idle time.Duration) blob.Store {
		return open(t, addr, s3.Options{Prefix: "p", Idle: idle})
	})
}

func client(server *blobserver.Server) *sdk.Client {
	return sdk.New(sdk.Options{
		BaseEndpoint: aws.String("http://" + server.Addr), UsePathStyle: true, Region: "us-east-1",
		Credentials: credentials.NewStaticCredentialsProvider(blobserver.AccessKey, blobserver.SecretKey, ""),
	})
}

// An object under a lock is neither replaced nor deleted, and the unit says so.
func TestALockedObjectStaysAndIsSaidToBeReadOnly(t *testing.T) {
	server := blobserver.S3(t)
	c := client(server)
	if _, err := c.CreateBucket(t.Context(), &sdk.CreateBucketInput{Bucket: aws.String("bucket"), ObjectLockEnabledForBucket: aws.Bool(true)}); err != nil {
		t.Fatal(err)
	}
	s := open(t, server.Addr, s3.Options{})
	if err := s.Put(t.Context(), "locked", []byte("kept")); err != nil {
		t.Fatal(err)
	}
	_, err := c.PutObjectRetention(t.Context(), &sdk.PutObjectRetentionInput{
		Bucket: aws.String("bucket"), Key: aws.String("locked"),
		Retention: &types.ObjectLockRetention{Mode: types.ObjectLockRetentionModeCompliance, RetainUntilDate: aws.Time(time.Now().Add(time.Hour))},
	})
	if err != nil {
		t.Fatal(err)
	}
	if err := s.Delete(t.Context(), "locked"); !errors.Is(err, blob.ErrReadOnly) {
		t.Errorf("delete: %v", err)
	}
	if err := s.Put(t.Context(), "locked", []byte("other")); !errors.Is(err, blob.ErrExist) && !errors.Is(err, blob.ErrReadOnly) {
		t.Errorf("put: %v", err)
	}
	if got, err := s.Get(t.Context(), "locked", 0, -1); err != nil || string(got) != "kept" {
		t.Errorf("get: %q, %v", got, err)
	}
}

// I5: whoever is not let in learns nothing of any object.
func TestWrongCredentialsAndNoBucketSayNothingOfObjects(t *testing.T) {
	server := blobserver.S3(t, "other")
	wrong := func(id, key string) blob.Store {
		return open(t, server.Addr, s3.Options{Credentials: s3.Credentials{AccessKeyID: id, SecretAccessKey: backstay.NewSecret([]byte(key))}})
	}
	for name, s := range map[string]blob.Store{
		"unknown id": wrong("nobody", "x"), "wrong key": wrong(blobserver.AccessKey, "x"), "no bucket": open(t, server.Addr, s3.Options{}),
	} {
		_, getErr := s.Get(t.Context(), "a", 0, -1)
		_, statErr := s.Stat(t.Context(), "a")
		for call, err := range map[string]error{
			"get": getErr, "stat": statErr, "put": s.Put(t.Context(), "a", nil), "delete": s.Delete(t.Context(), "a"),
			"list": s.List(t.Context(), "", func(blob.Info) error { return nil }),
		} {
			if !errors.Is(err, blob.ErrAway) || !errors.Is(err, blob.ErrDenied) || errors.Is(err, blob.ErrNotExist) {
				t.Errorf("%s, %s: %v", name, call, err)
			}
		}
	}
}
