package quiesce

import (
	"errors"
	"strings"

	backstay "github.com/backstay/backstay"
)

// reason says why the first rung holds, and why nothing stronger does.
func (s *Session) reason() string {
	failures := s.failures()
	switch {
	case s.why == "":
		return failures
	case failures == "":
		return s.why
	}
	return s.why + "; " + failures
}

// failures says why what is stronger could not be had, each cause once.
func (s *Session) failures() string {
	var all []string
	for i, f := range s.failed {
		if i > 0 && words(f.err) == words(s.failed[i-1].err) {
			continue
		}
		if f.consistency == backstay.ApplicationConsistent && (i+1 == len(s.failed) || words(s.failed[i+1].err) != words(f.err)) {
			all = append(all, "not application-consistent: "+words(f.err))
			continue
		}
		all = append(all, words(f.err))
	}
	return strings.Join(all, "; ")
}

// words is an error with its cause, without what to do about it.
func words(err error) string {
	var coded *backstay.Error
	if !errors.As(err, &coded) {
		return err.Error()
	}
	return coded.Error()
}
