package azure

import (
	"context"
	"errors"
	"fmt"
	"net/http"
	"net/url"

	"github.com/Azure/azure-sdk-for-go/sdk/azcore"
	"github.com/Azure/azure-sdk-for-go/sdk/storage/azblob/bloberror"

	"github.com/backstay/backstay/internal/blob"
)

// classify adds the port's error to one of the SDK's. write tells puts and
// deletes, for which "forbidden" means a unit that is read-only, from reads, for
// which it says nothing of the object (I5).
func classify(ctx context.Context, err error, write bool) error {
	if ctx.Err() != nil {
		return stopped(ctx, err)
	}
	var answer *azcore.ResponseError
	if !errors.As(err, &answer) {
		return fmt.Errorf("%w: %w", blob.ErrAway, clean(err))
	}
	said := fmt.Errorf("the store answers %d %s", answer.StatusCode, answer.ErrorCode)
	switch bloberror.Code(answer.ErrorCode) {
	case bloberror.BlobAlreadyExists, bloberror.ResourceAlreadyExists:
		return fmt.Errorf("%w: %w", blob.ErrExist, said)
	case bloberror.BlobNotFound:
		return fmt.Errorf("%w: %w", blob.ErrNotExist, said)
	case bloberror.ContainerNotFound, bloberror.ResourceNotFound, bloberror.AuthenticationFailed, bloberror.AccountIsDisabled,
		bloberror.ContainerDisabled, bloberror.AuthorizationFailure, bloberror.InvalidAuthenticationInfo, bloberror.NoAuthenticationInformation:
		return fmt.Errorf("%w: %w: %w", blob.ErrAway, blob.ErrDenied, said)
	case bloberror.ConditionNotMet: // the only condition we send is that the name is free
		if write {
			return fmt.Errorf("%w: %w", blob.ErrExist, said)
		}
	case bloberror.BlobImmutableDueToPolicy:
		return fmt.Errorf("%w: %w", blob.ErrReadOnly, said)
	case bloberror.ContainerBeingDeleted, bloberror.OperationTimedOut, bloberror.ServerBusy:
		return fmt.Errorf("%w: %w", blob.ErrAway, said)
	}
	if port := byStatus(answer.StatusCode, write); port != nil {
		return fmt.Errorf("%w: %w", port, said)
	}
	return said
}

// byStatus returns the port's error for an HTTP status; nil if there is none.
func byStatus(status int, write bool) error {
	switch {
	case status == http.StatusInsufficientStorage:
		return blob.ErrFull
	case status == http.StatusForbidden && write:
		return blob.ErrReadOnly
	case status == http.StatusForbidden, status == http.StatusUnauthorized, status == http.StatusNotFound:
		return fmt.Errorf("%w: %w", blob.ErrAway, blob.ErrDenied)
	case status >= 500, status == http.StatusTooManyRequests, status == http.StatusRequestTimeout, status < 400:
		return blob.ErrAway
	}
	return nil
}

// clean takes the URL out of an error, because it may hold a token.
func clean(err error) error {
	var request *url.Error
	if errors.As(err, &request) {
		return request.Err
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
