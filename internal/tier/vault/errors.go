package vault

import (
	"context"
	"errors"
	"fmt"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/tier/vault/point"
	"github.com/backstay/backstay/internal/tier/vault/seal"
)

// damaged tells whether an error says that stored bytes are wrong or gone,
// rather than that they could not be read (I5).
func damaged(err error) bool {
	return errors.Is(err, seal.ErrWrong) || errors.Is(err, point.ErrBad) || errors.Is(err, blob.ErrNotExist)
}

// readError turns a failed read of an object into what people are told. Only if
// every copy answered, and wrongly, is the object damaged.
func readError(object string, errs ...error) error {
	joined := errors.Join(errs...)
	if coded := passed(joined); coded != nil {
		return coded
	}
	for _, err := range errs {
		if !damaged(err) {
			return backstay.Errorf(backstay.CodeVaultAway, "%s could not be read from the vault", object).Because(joined)
		}
	}
	return backstay.Errorf(backstay.CodeDamaged, "%s in the vault is damaged and was not served", object).Because(joined)
}

// writeError turns a failed write into what people are told.
func writeError(object string, err error) error {
	if coded := passed(err); coded != nil {
		return coded
	}
	code := backstay.CodeTransferFailed
	switch {
	case errors.Is(err, blob.ErrFull):
		code = backstay.CodeVaultFull
	case errors.Is(err, blob.ErrReadOnly):
		code = backstay.CodeVaultReadOnly
	case errors.Is(err, blob.ErrAway):
		code = backstay.CodeVaultAway
	}
	return backstay.Errorf(code, "%s could not be written to the vault", object).Because(err)
}

// passed returns errors that say enough already: coded ones, and the caller's
// own wish to end.
func passed(err error) error {
	var coded *backstay.Error
	if errors.As(err, &coded) {
		return coded
	}
	if errors.Is(err, context.Canceled) || errors.Is(err, context.DeadlineExceeded) {
		return fmt.Errorf("vault: %w", err)
	}
	return nil
}
