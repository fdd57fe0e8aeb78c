package server_test

import (
	"archive/tar"
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"slices"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/catalog"
	"github.com/backstay/backstay/internal/items"
	"github.com/backstay/backstay/internal/server/servertest"
)

// openPoint opens web01's newest point, in the owner's name.
func openPoint(t *testing.T, w *servertest.World, more string) api.OpenFilesResponse {
	t.Helper()
	return as[api.OpenFilesResponse](t, w, backstay.Owner, "POST", "/v1/file-sessions", `{"point":"web01"`+more+`}`)
}

// fetch sends a request with headers, name and value by turns.
func fetch(t *testing.T, token, method, address string, headers ...string) (*http.Response, string, error) {
	t.Helper()
	req, err := http.NewRequestWithContext(t.Context(), method, address, nil)
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+token)
	for i := 0; i < len(headers); i += 2 {
		req.Header.Set(headers[i], headers[i+1])
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	return resp, string(data), err
}

func contentURL(w *servertest.World, s backstay.FileSession, path string) string {
	return w.URL + api.Path(api.PathFileContent, string(s.ID)) + "?" + url.Values{"path": {path}}.Encode()
}

func TestAFileIsHandedOutInRangesAsHTTPWantsIt(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	passwd := "root:x:0:0:root:/root:/bin/sh\n" // 30 bytes
	address := contentURL(w, opened.Session, "/etc/passwd")
	whole, body, err := fetch(t, opened.Ticket, "GET", address)
	tag := whole.Header.Get("ETag")
	if err != nil || whole.StatusCode != 200 || body != passwd || len(tag) < 10 || strings.HasPrefix(tag, "W/") || whole.Header.Get("Accept-Ranges") != "bytes" {
		t.Fatalf("%v %d %q %v", err, whole.StatusCode, body, whole.Header)
	}
	if d := whole.Header.Get("Content-Disposition"); d != `attachment; filename="passwd"; filename*=UTF-8''passwd` {
		t.Errorf("disposition %s", d)
	}
	for _, c := range []struct {
		headers      []string
		status       int
		body, ranged string
	}{
		{[]string{"Range", "bytes=0-3"}, 206, "root", "bytes 0-3/30"},
		{[]string{"Range", "bytes=22-"}, 206, "/bin/sh\n"[0:8], "bytes 22-29/30"},
		{[]string{"Range", "bytes=-8"}, 206, "/bin/sh\n", "bytes 22-29/30"},
		{[]string{"Range", "bytes=-800"}, 206, passwd, "bytes 0-29/30"},
		{[]string{"Range", "bytes=29-99999999999999999999"}, 206, "\n", "bytes 29-29/30"},
		{[]string{"Range", "bytes=30-"}, 416, "", "bytes */30"},
		{[]string{"Range", "bytes=99999999999999999999-"}, 416, "", "bytes */30"},
		{[]string{"Range", "bytes=-0"}, 416, "", "bytes */30"},
		{[]string{"Range", "bytes=5-2"}, 200, passwd, ""},
		{[]string{"Range", "bytes=a-b"}, 200, passwd, ""},
		{[]string{"Range", "lines=1-2"}, 200, passwd, ""},
		{[]string{"Range", "bytes=0-1,4-5"}, 200, passwd, ""},
		{[]string{"Range", "bytes=+1-2"}, 200, passwd, ""},
		{[]string{"Range", "bytes=0-3", "If-Range", tag}, 206, "root", "bytes 0-3/30"},
		{[]string{"Range", "bytes=0-3", "If-Range", `"another"`}, 200, passwd, ""},
		{[]string{"Range", "bytes=0-3", "If-Range", whole.Header.Get("Last-Modified")}, 200, passwd, ""},
		{[]string{"If-None-Match", `"x", ` + tag}, 304, "", ""},
		{[]string{"If-None-Match", "W/" + tag}, 200, passwd, ""},
		{[]string{"If-Match", `"x"`}, 412, "", ""},
		{[]string{"If-Match", "*"}, 200, passwd, ""},
	} {
		resp, body, err := fetch(t, opened.Ticket, "GET", address, c.headers...)
		if err != nil || resp.StatusCode != c.status || body != c.body || resp.Header.Get("Content-Range") != c.ranged {
			t.Errorf("%v: %v %d %q %s", c.headers, err, resp.StatusCode, body, resp.Header.Get("Content-Range"))
		}
	}
	resp, body, err := fetch(t, opened.Ticket, "HEAD", address)
	if err != nil || resp.StatusCode != 200 || body != "" || resp.ContentLength != 30 || resp.Header.Get("ETag") != tag {
		t.Errorf("HEAD: %v %d %q %v", err, resp.StatusCode, body, resp.Header)
	}
}

func TestADownloadKeepsOddNamesHarmless(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	resp, body, err := fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, `/etc/b\xffd`))
	want := `attachment; filename="b_xffd"; filename*=UTF-8''b%5Cxffd`
	if err != nil || body != "no UTF-8\n" || resp.Header.Get("Content-Disposition") != want || resp.Header.Get("X-Content-Type-Options") != "nosniff" {
		t.Errorf("%v %q %v", err, body, resp.Header)
	}
}

func TestWhatHasNoContentSaysWhatItIs(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	for path, code := range map[string]backstay.Code{
		"/etc": backstay.CodeFileUnfit, "/nothing": backstay.CodeUnknownFile, "vdz:/x": backstay.CodeUnknownVolume, "vdb1:/secret": backstay.CodeVolumeLocked,
		`a\q`: backstay.CodeUsage,
	} {
		_, body, err := fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, path))
		if e := decodeError(t, body); err != nil || e.Code != code {
			t.Errorf("%s: %v %+v", path, err, e)
		}
	}
	// A link is followed, as the guest would.
	if _, body, _ := fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, "/etc/users")); !strings.HasPrefix(body, "root:") {
		t.Errorf("got %q", body)
	}
}

// A ticket opens its session and nothing else, and only until the session ends.
func TestATicketWorksOnTheRoutesOfItsSessionOnly(t *testing.T) {
	w := start(t)
	mine, other := openPoint(t, w, ""), openPoint(t, w, `,"tier":"snapshot"`)
	for _, path := range []string{"/v1/vms", "/v1/points", "/v1/whoami", "/v1/file-sessions", "/openapi.json", "/metrics", "/v1/tokens", "/v1/nothing",
		"/v1/file-sessions/" + string(other.Session.ID), "/v1/file-sessions/" + string(other.Session.ID) + "/folder?path=/"} {
		if status, text := ask(t, w, mine.Ticket, "GET", path, ""); status != 403 || decodeError(t, text).Code != backstay.CodeNotAllowed {
			t.Errorf("%s: %d %s", path, status, text)
		}
	}
	if status, text := ask(t, w, mine.Ticket, "POST", "/v1/file-sessions", `{"point":"web01"}`); status != 403 {
		t.Errorf("open: %d %s", status, text)
	}
	if status, text := ask(t, w, mine.Ticket, "GET", "/v1/file-sessions/"+string(mine.Session.ID)+"/folder?path=/", ""); status != 200 {
		t.Errorf("its own: %d %s", status, text)
	}
	if status, _ := ask(t, w, w.Tokens[backstay.Owner], "DELETE", "/v1/file-sessions/"+string(mine.Session.ID), ""); status != 204 {
		t.Errorf("end: %d", status)
	}
	if status, text := ask(t, w, mine.Ticket, "GET", "/v1/file-sessions/"+string(mine.Session.ID), ""); status != 401 {
		t.Errorf("after the end: %d %s", status, text)
	}
	if list := as[[]backstay.FileSession](t, w, backstay.Owner, "GET", "/v1/file-sessions", ""); len(list) != 1 || list[0].ID != other.Session.ID {
		t.Errorf("left: %+v", list)
	}
}

func TestSessionsAreTheirUsersAndAnOwnerMayEndThem(t *testing.T) {
	w := start(t)
	opened := as[api.OpenFilesResponse](t, w, backstay.Reader, "POST", "/v1/file-sessions", `{"point":"web01"}`)
	path := "/v1/file-sessions/" + string(opened.Session.ID)
	if list := as[[]backstay.FileSession](t, w, backstay.Operator, "GET", "/v1/file-sessions", ""); len(list) != 0 {
		t.Errorf("another user sees %+v", list)
	}
	for _, r := range [][2]string{{"GET", ""}, {"DELETE", ""}, {"GET", "/folder?path=/"}, {"GET", "/content?path=/etc/passwd"}} {
		if status, text := ask(t, w, w.Tokens[backstay.Operator], r[0], path+r[1], ""); status != 403 {
			t.Errorf("another user: %v %d %s", r, status, text)
		}
	}
	if list := as[[]backstay.FileSession](t, w, backstay.Owner, "GET", "/v1/file-sessions", ""); len(list) != 1 {
		t.Errorf("the owner sees %+v", list)
	}
	if status, text := ask(t, w, w.Tokens[backstay.Owner], "GET", path+"/content?path=/etc/passwd", ""); status != 403 {
		t.Errorf("the owner reads in it: %d %s", status, text)
	}
	plain, err := w.PlainToken(t.Context(), backstay.Owner)
	if err != nil {
		t.Fatal(err)
	}
	if status, text := ask(t, w, plain, "DELETE", path, ""); status != 204 {
		t.Errorf("an owner without the right to files ends it: %d %s", status, text)
	}
	if status, text := ask(t, w, w.Tokens[backstay.Reader], "GET", path, ""); decodeError(t, text).Code != backstay.CodeSessionEnded {
		t.Errorf("after the end: %d %s", status, text)
	}
}

func TestDeletingATokenEndsItsSessions(t *testing.T) {
	w := start(t)
	opened := as[api.OpenFilesResponse](t, w, backstay.Reader, "POST", "/v1/file-sessions", `{"point":"web01"}`)
	if status, _ := ask(t, w, w.Tokens[backstay.Owner], "DELETE", "/v1/tokens/the-reader", ""); status != 204 {
		t.Fatal(status)
	}
	if status, _ := ask(t, w, opened.Ticket, "GET", "/v1/file-sessions/"+string(opened.Session.ID), ""); status != 401 || len(w.Sessions.List()) != 0 {
		t.Errorf("%d, open: %v", status, w.Sessions.List())
	}
}

// trail returns what was added to the audit log since it had n entries.
func trail(t *testing.T, w *servertest.World, n int) []string {
	t.Helper()
	var lines []string
	for _, e := range as[[]backstay.AuditEntry](t, w, backstay.Owner, "GET", "/v1/audit", "")[n:] {
		lines = append(lines, fmt.Sprintf("%s %s | %s | %s", e.User, e.Action, e.Target, e.Outcome))
	}
	return lines
}

func TestEveryFileThatLeavesIsInTheAuditTrail(t *testing.T) {
	w := start(t)
	opened, disks := openPoint(t, w, ""), openPoint(t, w, `,"kind":"nbd"`)
	id := string(opened.Session.ID)
	point := string(servertest.PointSnapshot) + " of local/web01: "
	content, taking := "the-owner GET /v1/file-sessions/{session}/content | ", "the-owner POST /v1/file-sessions/{session}/take | "
	n := len(as[[]backstay.AuditEntry](t, w, backstay.Owner, "GET", "/v1/audit", ""))
	get := func(address string, headers ...string) { fetch(t, opened.Ticket, "GET", address, headers...) }
	for _, c := range []struct {
		do   func()
		want []string
	}{
		{func() { get(contentURL(w, opened.Session, "/etc/passwd"), "Range", "bytes=0-3") }, []string{content + point + "vda1:/etc/passwd | ok"}},
		{func() { get(contentURL(w, opened.Session, "/etc/passwd"), "Range", "bytes=4-7") }, nil}, // one entry for each file of a session
		{func() { get(contentURL(w, opened.Session, "/etc/users")) }, nil},                        // the same file
		{func() { get(contentURL(w, opened.Session, "/etc/hostname"), "Range", "bytes=99-") }, nil},
		{func() { fetch(t, opened.Ticket, "HEAD", contentURL(w, opened.Session, "/etc/hostname")) }, nil},
		{func() { get(contentURL(w, opened.Session, "/etc/hostname")) }, []string{content + point + "vda1:/etc/hostname | ok"}},
		{func() { get(contentURL(w, opened.Session, "vdb1:/secret")) },
			[]string{content + "session " + id + ": " + point[:len(point)-2] + " | volume-locked"}},
		{func() { get(w.URL + "/v1/file-sessions/" + id + "/folder?path=/") }, nil},
		{func() {
			ask(t, w, opened.Ticket, "POST", "/v1/file-sessions/"+id+"/take", `{"paths":["/etc","/empty"],"format":"items"}`)
		}, []string{taking + point + "vda1:/etc, vda1:/empty | ok"}},
		{func() {
			ask(t, w, opened.Ticket, "POST", "/v1/file-sessions/"+id+"/unlock", `{"volume":"vdb1","kind":"passphrase","key":"b3BlbiBzZXNhbWU="}`)
		}, []string{"the-owner POST /v1/file-sessions/{session}/unlock | session " + id + ": " + point[:len(point)-2] + " volume vdb1 | ok"}},
		{func() {
			fetch(t, disks.Ticket, "GET", w.URL+api.Path(api.PathFileDisk, string(disks.Session.ID), "vda"), "Range", "bytes=0-511")
			fetch(t, disks.Ticket, "GET", w.URL+api.Path(api.PathFileDisk, string(disks.Session.ID), "vda"), "Range", "bytes=512-1023")
		}, []string{"the-owner GET /v1/file-sessions/{session}/disks/{disk} | " + point + "disk vda | ok"}},
	} {
		c.do()
		got := trail(t, w, n)
		n += len(got)
		if !slices.Equal(got, c.want) {
			t.Errorf("got\n  %s\nwant\n  %s", strings.Join(got, "\n  "), strings.Join(c.want, "\n  "))
		}
	}
}

// What breaks off is an error for the client, and in the trail.
func TestWhatBreaksOffIsNotTakenForWhole(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	id := opened.Session.ID
	for _, method := range []string{"content", "items", "tar", "zip"} {
		n, pieces := len(as[[]backstay.AuditEntry](t, w, backstay.Owner, "GET", "/v1/audit", "")), 0
		w.Files.Hook = hookAt("piece", func() error {
			if pieces++; pieces > 8 {
				return errors.New("the machine is gone")
			}
			return nil
		})
		var err error
		var got string
		if method == "content" {
			_, got, err = fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, "/big"))
		} else {
			got, err = takeAs(t, w, opened, method, "/big")
		}
		w.Files.Hook = nil
		if err == nil {
			t.Errorf("%s: %d bytes, and no error", method, len(got))
		}
		if lines := trail(t, w, n); len(lines) != 2 || !strings.HasSuffix(lines[0], "vda1:/big | ok") || strings.HasSuffix(lines[1], "| ok") {
			t.Errorf("%s: %q", method, lines)
		}
		if _, err := w.Sessions.Get(id); err != nil {
			t.Errorf("%s: the session is gone: %v", method, err)
		}
	}
}

func TestARevokedSessionCutsItsDownloads(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	pieces := 0
	w.Files.Hook = hookAt("piece", func() error {
		if pieces++; pieces == 3 {
			return w.Sessions.End(t.Context(), opened.Session.ID, "revoked")
		}
		return nil
	})
	_, got, err := fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, "/big"))
	if err == nil || len(got) >= 1<<20 {
		t.Errorf("%d bytes, %v", len(got), err)
	}
}

func TestNothingLeavesThatCannotBeRecorded(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	audit := w.Catalog.Audit
	w.Catalog.Audit = brokenAudit{audit}
	resp, body, _ := fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, "/etc/passwd"))
	if resp.StatusCode != 500 || strings.Contains(body, "root:") {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	w.Catalog.Audit = audit
	if resp, body, _ = fetch(t, opened.Ticket, "GET", contentURL(w, opened.Session, "/etc/passwd")); resp.StatusCode != 200 {
		t.Errorf("%d %q", resp.StatusCode, body)
	}
	if lines := trail(t, w, 0); !strings.HasSuffix(lines[len(lines)-1], "vda1:/etc/passwd | ok") {
		t.Errorf("not recorded the second time: %q", lines)
	}
}

func takeAs(t *testing.T, w *servertest.World, opened api.OpenFilesResponse, format string, paths ...string) (string, error) {
	t.Helper()
	body := fmt.Sprintf(`{"format":%q,"paths":["%s"]}`, format, strings.Join(paths, `","`))
	req, err := http.NewRequestWithContext(t.Context(), "POST", w.URL+api.Path(api.PathFileTake, string(opened.Session.ID)), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	req.Header.Set("Authorization", "Bearer "+opened.Ticket)
	req.Header.Set("Content-Type", "application/json")
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	data, err := io.ReadAll(resp.Body)
	if resp.StatusCode != 200 {
		return string(data), fmt.Errorf("status %d: %s", resp.StatusCode, data)
	}
	return string(data), err
}

func TestASelectionIsTakenAsOneStream(t *testing.T) {
	w := start(t)
	opened := openPoint(t, w, "")
	stream, err := takeAs(t, w, opened, "items", "/etc")
	if err != nil {
		t.Fatal(err)
	}
	var names []string
	for r := items.NewReader(strings.NewReader(stream)); ; {
		it, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, it.Path.String())
	}
	if want := []string{"etc", `etc/b\xffd`, "etc/hostname", "etc/passwd", "etc/users"}; !slices.Equal(names, want) {
		t.Errorf("items: %q", names)
	}
	if stream, err = takeAs(t, w, opened, "tar", "/etc", "/big"); err != nil {
		t.Fatal(err)
	}
	names = nil
	for r := tar.NewReader(bytes.NewReader([]byte(stream))); ; {
		h, err := r.Next()
		if errors.Is(err, io.EOF) {
			break
		} else if err != nil {
			t.Fatal(err)
		}
		names = append(names, strings.TrimSuffix(h.Name, "/"))
	}
	if want := []string{"etc", "etc/b\xffd", "etc/hostname", "etc/passwd", "etc/users", "big"}; !slices.Equal(names, want) {
		t.Errorf("tar: %q", names)
	}
	for _, paths := range [][]string{{"/etc/passwd", "vda1:/etc/passwd"}, {"/", "/etc"}, {"/etc", "/"}} {
		if got, err := takeAs(t, w, opened, "tar", paths...); err == nil || !strings.Contains(got, "cannot be taken together") {
			t.Errorf("%v: %v %q", paths, err, got)
		}
	}
}

// hookAt calls fn when the mover does something of a name.
func hookAt(name string, fn func() error) func(context.Context, string) error {
	return func(_ context.Context, method string) error {
		if method != name {
			return nil
		}
		return fn()
	}
}

// brokenAudit keeps nothing.
type brokenAudit struct{ catalog.Audit }

func (brokenAudit) Append(context.Context, backstay.AuditEntry) error {
	return errors.New("the disk is full")
}
