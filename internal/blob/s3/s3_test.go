package s3_test

import (
	"errors"
	"fmt"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/blob"
	"github.com/backstay/backstay/internal/blob/s3"
)

// answering returns a unit of a server that gives one answer to all.
func answering(t *testing.T, answer http.HandlerFunc) blob.Store {
	t.Helper()
	server := httptest.NewServer(answer)
	t.Cleanup(server.Close)
	s, err := s3.New(t.Context(), "bucket", s3.Options{
		Endpoint: server.URL, PathStyle: true, Region: "r", Prefix: "p",
		Credentials: s3.Credentials{AccessKeyID: "id", SecretAccessKey: backstay.NewSecret([]byte("hunter2"))},
	})
	if err != nil {
		t.Fatal(err)
	}
	return s
}

// refusing answers as S3 does when it refuses.
func refusing(status int, code string) http.HandlerFunc {
	return func(w http.ResponseWriter, r *http.Request) {
		w.Header().Set("Content-Type", "application/xml")
		w.WriteHeader(status)
		if r.Method != http.MethodHead {
			fmt.Fprintf(w, "<Error><Code>%s</Code><Message>because</Message></Error>", code)
		}
	}
}

func TestWhatTheServerRefusesIsSaidInThePortsWords(t *testing.T) {
	for _, c := range []struct {
		status   int
		code     string
		put, get error
	}{
		{403, "AccessDenied", blob.ErrReadOnly, blob.ErrAway},
		{403, "InvalidAccessKeyId", blob.ErrDenied, blob.ErrDenied},
		{403, "SignatureDoesNotMatch", blob.ErrDenied, blob.ErrDenied},
		{404, "NoSuchBucket", blob.ErrDenied, blob.ErrDenied},
		{404, "NoSuchKey", blob.ErrNotExist, blob.ErrNotExist},
		{412, "PreconditionFailed", blob.ErrExist, nil},
		{429, "TooManyRequests", blob.ErrAway, blob.ErrAway},
		{400, "RequestTimeout", blob.ErrAway, blob.ErrAway},
		{500, "InternalError", blob.ErrAway, blob.ErrAway},
		{503, "SlowDown", blob.ErrAway, blob.ErrAway},
		{507, "XMinioStorageFull", blob.ErrFull, blob.ErrFull},
		{400, "QuotaExceeded", blob.ErrFull, blob.ErrFull},
		{400, "InvalidRequest", nil, nil},
	} {
		s := answering(t, refusing(c.status, c.code))
		put := s.Put(t.Context(), "a", []byte("x"))
		_, get := s.Get(t.Context(), "a", 0, -1)
		for call, got := range map[string]struct{ err, want error }{"put": {put, c.put}, "get": {get, c.get}} {
			known := errors.Is(got.err, blob.ErrAway) || errors.Is(got.err, blob.ErrFull) || errors.Is(got.err, blob.ErrReadOnly) || errors.Is(got.err, blob.ErrExist)
			if got.err == nil || got.want != nil && !errors.Is(got.err, got.want) || got.want == nil && known {
				t.Errorf("%s, %d %s: %v, want %v", call, c.status, c.code, got.err, got.want)
			}
			if !strings.Contains(fmt.Sprint(got.err), c.code) || strings.Contains(fmt.Sprint(got.err), "hunter2") {
				t.Errorf("%s: %v", call, got.err)
			}
		}
	}
}

// A conflict is somebody else at the same time: only the object says who won.
func TestAConflictIsDecidedByTheObject(t *testing.T) {
	for there, want := range map[bool]error{true: blob.ErrExist, false: blob.ErrAway} {
		s := answering(t, func(w http.ResponseWriter, r *http.Request) {
			switch {
			case r.Method == http.MethodPut:
				refusing(http.StatusConflict, "ConditionalRequestConflict")(w, r)
			case there:
				w.Header().Set("Content-Length", "1")
			case strings.HasSuffix(r.URL.Path, "/a"):
				w.WriteHeader(http.StatusNotFound)
			}
		})
		if err := s.Put(t.Context(), "a", []byte("x")); !errors.Is(err, want) {
			t.Errorf("there %t: %v", there, err)
		}
	}
}

func TestAnAnswerThatIsNotTheRangeIsAnErrorNeverShort(t *testing.T) {
	for name, answer := range map[string]http.HandlerFunc{
		"the whole object": func(w http.ResponseWriter, _ *http.Request) { fmt.Fprint(w, "0123456789") },
		"fewer bytes": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-4/10")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "234")
		},
		"fewer bytes than announced": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.Header().Set("Content-Length", "4")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "23")
		},
		"no length": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 2-5/10")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "23")
			w.(http.Flusher).Flush()
		},
		"another range": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Range", "bytes 3-6/10")
			w.WriteHeader(http.StatusPartialContent)
			fmt.Fprint(w, "3456")
		},
	} {
		if got, err := answering(t, answer).Get(t.Context(), "a", 2, 4); !errors.Is(err, blob.ErrAway) || got != nil {
			t.Errorf("%s: %q, %v", name, got, err)
		}
	}
}

// I6: whatever decides what may be deleted stands on complete listings.
func TestAListingThatCannotBeCompleteIsAnError(t *testing.T) {
	page := func(more, keys string) http.HandlerFunc {
		var all strings.Builder
		for key := range strings.FieldsSeq(keys) {
			fmt.Fprintf(&all, "<Contents><Key>%s</Key><Size>1</Size></Contents>", key)
		}
		return func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprintf(w, "<ListBucketResult>%s%s</ListBucketResult>", more, all.String())
		}
	}
	for name, answer := range map[string]http.HandlerFunc{
		"more, and not where": page("<IsTruncated>true</IsTruncated>", "p/a p/b"),
		"out of order":        page("<IsTruncated>false</IsTruncated>", "p/b p/a"),
		"twice the same":      page("<IsTruncated>false</IsTruncated>", "p/a p/a"),
		"not asked for":       page("<IsTruncated>false</IsTruncated>", "p/a q/b"),
		"the first page again": page(
			"<IsTruncated>true</IsTruncated><NextContinuationToken>x</NextContinuationToken>", "p/a p/b"),
		"cut short": func(w http.ResponseWriter, _ *http.Request) {
			fmt.Fprint(w, "<ListBucketResult><IsTruncated>false</IsTruncated><Contents><Key>p/a</Key>")
		},
	} {
		if err := answering(t, answer).List(t.Context(), "", func(blob.Info) error { return nil }); err == nil {
			t.Errorf("%s: no error", name)
		}
	}
}

func TestAUnitSaysWhereItIs(t *testing.T) {
	s, err := s3.New(t.Context(), "bucket", s3.Options{Endpoint: "https://s3.example.org", URL: "s3://bucket", Region: "r",
		Credentials: s3.Credentials{AccessKeyID: "id"}})
	if err != nil {
		t.Fatal(err)
	}
	place, err := s.Describe(t.Context())
	if want := (blob.Place{URL: "s3://bucket", Device: "https://s3.example.org/bucket", Available: -1}); err != nil || place != want {
		t.Errorf("%+v, %v", place, err)
	}
}
