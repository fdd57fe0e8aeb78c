package backstay

import (
	"errors"
	"fmt"
)

// Kind says what sort of failure a code is. HTTP status, exit code and whether
// to try again follow from it.
type Kind string

// The kinds, with the exit code of the command line beside each.
const (
	KindFailed      Kind = "failed"      // 1: it was tried and went wrong
	KindUsage       Kind = "usage"       // 2: the request itself is wrong
	KindNotFound    Kind = "not-found"   // 3: no such thing
	KindRefused     Kind = "refused"     // 4: a pre-flight check or a conflict
	KindNotAllowed  Kind = "not-allowed" // 5: the token lacks the right
	KindDamaged     Kind = "damaged"     // 6: stored data is not what was written
	KindUnreachable Kind = "unreachable" // 7: server, host or store does not answer
	KindInternal    Kind = "internal"    // 1: a fault of ours, details only in the log
)

// Error is the one error type that reaches people. Message says what happened,
// Cause why, Action what to do; Code is stable and is what scripts match.
type Error struct {
	Kind    Kind   `json:"kind,omitempty"`
	Code    Code   `json:"code"`
	Message string `json:"message"`
	Cause   string `json:"cause"`
	Action  string `json:"action"`

	wrapped error
}

// Code is a stable name of one failure, in lower-case words with hyphens.
type Code string

// Error returns the three parts in one line.
func (e *Error) Error() string {
	if e.Cause == "" {
		return fmt.Sprintf("%s: %s", e.Code, e.Message)
	}
	return fmt.Sprintf("%s: %s: %s", e.Code, e.Message, e.Cause)
}

// Unwrap returns the error that led to this one, or nil.
func (e *Error) Unwrap() error { return e.wrapped }

// Errorf makes an Error of a known code; the format makes its message.
func Errorf(code Code, format string, args ...any) *Error {
	entry, ok := codes[code]
	if !ok {
		entry = codes[CodeInternal]
	}
	return &Error{Kind: entry.kind, Code: code, Message: fmt.Sprintf(format, args...), Action: entry.action}
}

// Because adds the cause and returns the same error.
func (e *Error) Because(cause error) *Error {
	if cause != nil {
		e.Cause, e.wrapped = cause.Error(), cause
	}
	return e
}

// Becausef adds the cause in words and returns the same error.
func (e *Error) Becausef(format string, args ...any) *Error {
	e.Cause = fmt.Sprintf(format, args...)
	return e
}

// Do replaces the action that the code's table entry gives.
func (e *Error) Do(format string, args ...any) *Error {
	e.Action = fmt.Sprintf(format, args...)
	return e
}

// AsError returns the Error inside err, or wraps err as internal. It returns
// nil for nil.
func AsError(err error) *Error {
	if err == nil {
		return nil
	}
	var e *Error
	if errors.As(err, &e) {
		return e
	}
	return Errorf(CodeInternal, "something went wrong inside backstay").Because(err)
}

// IsCode tells whether err carries the given code.
func IsCode(err error, code Code) bool {
	var e *Error
	return errors.As(err, &e) && e.Code == code
}

// ExitCode returns the command line's exit code for the kind (cli.md).
func (k Kind) ExitCode() int {
	switch k {
	case KindUsage:
		return 2
	case KindNotFound:
		return 3
	case KindRefused:
		return 4
	case KindNotAllowed:
		return 5
	case KindDamaged:
		return 6
	case KindUnreachable:
		return 7
	default:
		return 1
	}
}

// HTTPStatus returns the status with which the API answers the kind.
func (k Kind) HTTPStatus() int {
	switch k {
	case KindUsage:
		return 422
	case KindNotFound:
		return 404
	case KindRefused:
		return 409
	case KindNotAllowed:
		return 403
	case KindDamaged, KindFailed:
		return 502
	case KindUnreachable:
		return 503
	default:
		return 500
	}
}
