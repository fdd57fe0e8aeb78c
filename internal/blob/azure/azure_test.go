package azure_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/azure"
)

// answering returns a unit of a server that gives one answer to all.
func answering(t *testing.T, answer http.HandlerFunc) blob.Store {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	s, err := azure.New("acct", "container", azure.Options{
		Endpoint: server.URL + "/acct", Prefix: "p", SASToken: backstay.NewSecret([]byte("sig=hunter2")),
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

func refusing(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("x-ms-error-code", code)
		w.WriteHeader(status)
	}
}

func TestWhatTheServerRefusesIsSaidInThePortsWords(t *testing.T) {
	for _, c := range []struct {
		status   int
		code     string
		put, get error
	}{
		{403, "AuthorizationPermissionMismatch", blob.ErrReadOnly, blob.ErrAway},
		{403, "AuthenticationFailed", blob.ErrDenied, blob.ErrDenied},
		{404, "ContainerNotFound", blob.ErrDenied, blob.ErrDenied},
		{404, "BlobNotFound", blob.ErrNotExist, blob.ErrNotExist},
		{409, "BlobAlreadyExists", blob.ErrExist, nil},
		{409, "BlobImmutableDueToPolicy", blob.ErrReadOnly, nil},
		{412, "ConditionNotMet", blob.ErrExist, nil},
		{500, "OperationTimedOut", blob.ErrAway, blob.ErrAway},
		{503, "ServerBusy", blob.ErrAway, blob.ErrAway},
		{507, "InsufficientStorage", blob.ErrFull, nil},
		{400, "InvalidInput", nil, nil},
	} {
		s := answering(t, refusing(c.status, c.code))
		put := s.Put(t.Context(), "a", []byte("x"))
		_, get := s.Get(t.Context(), "a", 0, -1)
		for call, got := range map[string]struct{ err, want error }{"put": {put, c.put}, "get": {get, c.get}} {
			if got.err == nil || got.want != nil && !errors.Is(got.err, got.want) {
				t.Errorf("%s, %d %s: %v, want %v", call, c.status, c.code, got.err, got.want)
			}
			if !strings.Contains(fmt.Sprint(got.err), c.code) {
				t.Errorf("%s: %v", call, got.err)
			}
		}
	}
}

// A token is a part of the addresses that are asked, and errors name those.
func TestATokenIsNotInErrors(t *testing.T) {
	server := httptest.NewServer(nil)
	server.Close() // nobody answers there
	s, err := azure.New("acct", "container", azure.Options{Endpoint: server.URL + "/acct", SASToken: backstay.NewSecret([]byte("?sig=hunter2"))})
	if err != nil {
		t.Fatal(err)
	}
	cut := answering(t, func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Length", "10")
		fmt.Fprint(w, "cut")
	})
	for name, s := range map[string]blob.Store{"away": s, "cut": cut} {
		_, getErr := s.Get(t.Context(), "a", 0, -1)
		_, statErr := s.Stat(t.Context(), "a")
		for _, err := range []error{getErr, statErr, s.List(t.Context(), "", func(blob.Info) error { return nil })} {
			if name == "away" && !errors.Is(err, blob.ErrAway) || strings.Contains(fmt.Sprint(err), "hunter2") {
				t.Errorf("%s: %v", name, err)
			}
		}
	}
	place, err := s.Describe(t.Context())
	if err != nil || strings.Contains(place.Device, "hunter2") {
		t.Errorf("%+v, %v", place, err)
	}
}

func TestAnAnswerThatIsNotTheRangeIsAnErrorNeverShort(t *testing.T) {
	part := func(said, length, bytes string) http.HandlerFunc {
		return func(w http.ResponseWriter, _ *http.Request) {
			if length != "" {
				w.Header().Set("Content-Length", length)
			}
			if said == "" {
				fmt.Fprint(w, bytes)
				return
			}
			w.Header().Set("Content-Range", said)
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, bytes)
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"the whole object":           part("", "", "0123456789"),
		"fewer bytes":                part("bytes 2-4/10", "", "234"),
		"fewer bytes than announced": part("bytes 2-5/10", "4", "23"),
		"another range":              part("bytes 3-6/10", "", "3456"),
	} {
		if got, err := answering(t, answer).Get(t.Context(), "a", 2, 4); !errors.Is(err, blob.ErrAway) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// I6: whatever decides what may be deleted stands on complete listings.
func TestAListingThatCannotBeCompleteIsAnError(t *testing.T) {
	page := func(names string) http.HandlerFunc {
		var all strings.Builder
		for name := range strings.FieldsSeq(names) {
			fmt.Fprintf(&all, "<Blob><Name>%s</Name><Properties><Content-Length>1</Content-Length></Properties></Blob>", name)
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			fmt.Fprintf(w, `<?xml version="1.0"?><EnumerationResults><Blobs>%s</Blobs><NextMarker/></EnumerationResults>`, all.String())
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"out of order":  page("p/b p/a"),
		"not asked for": page("p/a q/b"),
		"no listing": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Type", "application/xml")
			fmt.Fprint(w, "<EnumerationResults/>")
		},
		"cut short": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "<EnumerationResults><Blobs><Blob>") },
	} {
		if err := answering(t, answer).List(t.Context(), "", func(blob.Info) error { return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
	if err := answering(t, page("p/a p/b")).List(t.Context(), "", func(blob.Info) error { return nil }); err != nil {
		t.Errorf("a sound listing: %v", err)
	}
}
