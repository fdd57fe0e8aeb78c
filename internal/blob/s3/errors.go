package s3

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"slices"

	awshttp "github.com/aws/aws-sdk-go-v2/aws/transport/http"
	"github.com/aws/smithy-go"

	"github.com/backstay/backstay/internal/blob"
)

// status returns the HTTP status of the store's answer; 0 if there was none.
func status(err error) int {
	var answer *awshttp.ResponseError
	if errors.As(err, &answer) && answer.Response != nil {
		return answer.HTTPStatusCode()
	}
	return 0
}

// code returns the name that the store gives its error.
func code(err error) string {
	var named smithy.APIError
	if errors.As(err, &named) {
		return named.ErrorCode()
	}
	return ""
}

// The names that do not follow from the status.
var (
	denied = []string{
		"InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed", "ExpiredToken", "InvalidToken",
		"NoSuchBucket", "AuthorizationHeaderMalformed", "PermanentRedirect", "AccountProblem", "InvalidSecurity",
	}
	full = []string{
		"QuotaExceeded", "InsufficientStorage", "StorageFull", "XMinioStorageFull", "XMinioAdminBucketQuotaExceeded",
		"InsufficientCapacity", "QuotaExceededException",
	}
	busy = []string{"RequestTimeout", "SlowDown", "ServiceUnavailable", "InternalError", "Throttling", "RequestTimeTooSlow", "IncompleteBody"}
)

// classify adds the port's error to one of the SDK's. write tells puts and
// deletes, for which "forbidden" means a unit that is read-only, from reads, for
// which it says nothing of the object (I5).
func classify(ctx context.Context, err error, write bool) error {
	if ctx.Err() != nil {
		return stopped(ctx, err)
	}
	name, http := code(err), status(err)
	switch {
	case errors.Is(err, blob.ErrDenied): // the credentials, before anything was sent
		return fmt.Errorf("%w: %w", blob.ErrAway, err)
	case slices.Contains(denied, name):
		return fmt.Errorf("%w: %w: %w", blob.ErrAway, blob.ErrDenied, answered(err))
	case slices.Contains(full, name):
		return fmt.Errorf("%w: %w", blob.ErrFull, answered(err))
	case slices.Contains(busy, name), http == 0:
		return fmt.Errorf("%w: %w", blob.ErrAway, answered(err))
	case name == "NoSuchKey":
		return fmt.Errorf("%w: %w", blob.ErrNotExist, answered(err))
	}
	if port := byStatus(http, write); port != nil {
		return fmt.Errorf("%w: %w", port, answered(err))
	}
	return answered(err)
}

// byStatus returns the port's error for an HTTP status; nil if there is none.
func byStatus(status int, write bool) error {
	switch {
	case status == http.StatusPreconditionFailed && write:
		return blob.ErrExist
	case status == http.StatusInsufficientStorage:
		return blob.ErrFull
	case (status == http.StatusForbidden || status == http.StatusMethodNotAllowed) && write:
		return blob.ErrReadOnly
	case status == http.StatusForbidden, status == http.StatusUnauthorized, status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", blob.ErrAway, blob.ErrDenied)
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status < 400:
		return blob.ErrAway
	}
	return nil
}

// answered returns what the store says, without what the SDK says around it.
func answered(err error) error {
	var named smithy.APIError
	if errors.As(err, &named) && status(err) != 0 {
		return fmt.Errorf("the store answers %d %s %s", status(err), named.ErrorCode(), named.ErrorMessage())
	}
	return err
}

// stopped returns the reason of a caller that gave up, or else err.
func stopped(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return context.Cause(ctx)
	}
	return err
}
