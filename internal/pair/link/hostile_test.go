package link

import (
	"bytes"
	"context"
	"crypto/tls"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/url"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/pair"
	"github.com/backstay/backstay/internal/pair/pairtest"
)

func wantCode(t *testing.T, err error, code backstay.Code) {
	t.Helper()
	if !backstay.IsCode(err, code) {
		t.Errorf("got %v, want %s", err, code)
	}
}

// offered offers the suite's vault.
func (w *world) offered(t *testing.T) pairtest.Subject {
	t.Helper()
	s := pairtest.Vault(w.client)
	if _, err := w.client.Offer(t.Context(), s.Offer); err != nil {
		t.Fatal(err)
	}
	return s
}

// TestOnlyPinnedCertificatesMayCall: where a token may be out a stranger may join, and
// do nothing else.
func TestOnlyPinnedCertificatesMayCall(t *testing.T) {
	w := start(t, patient)
	stranger := dial(identity(t), "east", w.address, w.here.Fingerprint(), patient)
	defer stranger.Close()
	calls := map[string]func() error{
		"offer": func() error { _, err := stranger.Offer(t.Context(), pair.Offer{ID: "v"}); return err },
		"put": func() error {
			o := pairtest.Sample{Name: "n", Content: []byte("c")}
			return stranger.Put(t.Context(), "v", o.Object(), bytes.NewReader(o.Content))
		},
		"list":   func() error { return stranger.List(t.Context(), "v", func(pair.Object) error { return nil }) },
		"get":    func() error { _, err := stranger.Get(t.Context(), "v", "n"); return err },
		"vaults": func() error { _, err := stranger.Vaults(t.Context()); return err },
		"hello":  func() error { _, err := stranger.Hello(t.Context(), Greeting{Region: "west"}); return err },
	}
	for _, open := range []bool{false, true} {
		w.mu.Lock()
		w.strangers = open
		w.mu.Unlock()
		for name, call := range calls {
			if err := call(); !backstay.IsCode(err, backstay.CodePairing) {
				t.Errorf("%s by a stranger, tokens out: %v: %v", name, open, err)
			}
		}
	}
	w.fake.Before = func(context.Context, string, string) error { t.Error("a stranger's call was made"); return nil }
	if _, err := Join(t.Context(), identity(t), Token{Region: "east", Address: w.address, Fingerprint: w.here.Fingerprint()}, Greeting{Region: "north"}); !backstay.IsCode(err, backstay.CodePairing) {
		t.Errorf("joined without a token: %v", err)
	}
}

// TestARegionThatWasUnpairedIsOutAtOnce, also on its connections.
func TestARegionThatWasUnpairedIsOutAtOnce(t *testing.T) {
	w := start(t, patient)
	w.offered(t)
	w.mu.Lock()
	clear(w.known)
	w.mu.Unlock()
	_, err := w.client.Vaults(t.Context())
	wantCode(t, err, backstay.CodePairing)
}

// TestAServerWithAnotherCertificateIsNotTold anything.
func TestAServerWithAnotherCertificateIsNotTold(t *testing.T) {
	w := start(t, patient)
	c := dial(w.west, "east", w.address, identity(t).Fingerprint(), patient)
	defer c.Close()
	_, err := c.Hello(t.Context(), Greeting{Region: "west"})
	wantCode(t, err, backstay.CodePairing)
	if !strings.Contains(err.Error(), w.here.Fingerprint()) {
		t.Errorf("who answers is not named: %v", err)
	}
}

// TestNothingButTLS13WithACertificateIsSpoken at the listener.
func TestNothingButTLS13WithACertificateIsSpoken(t *testing.T) {
	w := start(t, patient)
	for name, config := range map[string]*tls.Config{
		"no certificate": {InsecureSkipVerify: true},
		"TLS 1.2":        {InsecureSkipVerify: true, Certificates: []tls.Certificate{w.west.certificate}, MaxVersion: tls.VersionTLS12},
	} {
		c := http.Client{Transport: &http.Transport{TLSClientConfig: config}}
		if r, err := c.Get("https://" + w.address + pathVaults); err == nil {
			r.Body.Close()
			t.Errorf("%s: answered %s", name, r.Status)
		}
	}
}

// raw makes a request as no client of ours does, with the certificate of region west.
func (w *world) raw(t *testing.T, method, path string, query url.Values, body string) (outcome, error) {
	t.Helper()
	c := http.Client{Transport: &http.Transport{TLSClientConfig: &tls.Config{InsecureSkipVerify: true, Certificates: []tls.Certificate{w.west.certificate}}}}
	defer c.CloseIdleConnections()
	r, err := http.NewRequestWithContext(t.Context(), method, "https://"+w.address+path+"?"+query.Encode(), strings.NewReader(body))
	if err != nil {
		t.Fatal(err)
	}
	response, err := c.Do(r)
	if err != nil {
		return outcome{}, err
	}
	defer response.Body.Close()
	data, err := io.ReadAll(response.Body)
	if err != nil {
		return outcome{}, err
	}
	i := bytes.LastIndexByte(data, frameOutcome)
	for i >= 0 { // the outcome's kind may be a letter of its text
		var o outcome
		if len(data) >= i+frameHead && json.Unmarshal(data[i+frameHead:], &o) == nil {
			return o, nil
		}
		i = bytes.LastIndexByte(data[:i], frameOutcome)
	}
	return outcome{}, fmt.Errorf("no outcome in %q", data)
}

// TestRequestsThatNoServerMakesAreRefused before a Holder sees them.
func TestRequestsThatNoServerMakesAreRefused(t *testing.T) {
	w := start(t, patient)
	w.fake.Before = func(_ context.Context, call, about string) error {
		t.Errorf("%s of %q reached the holder", call, about)
		return nil
	}
	sum := strings.Repeat("00", 32)
	many := `{"vault":"v","objects":[` + strings.Repeat(`{"n":"a","s":1,"h":"`+sum+`"},`, pair.MaxAsked) + `{"n":"a","s":1,"h":"` + sum + `"}]}`
	for name, r := range map[string]struct {
		method, path string
		query        url.Values
		body         string
	}{
		"another size":           {"PUT", pathPut, url.Values{"vault": {"v"}, "name": {"n"}, "size": {"3"}, "sum": {sum}}, "four"},
		"no size":                {"PUT", pathPut, url.Values{"vault": {"v"}, "name": {"n"}, "sum": {sum}}, "four"},
		"a sum too short":        {"PUT", pathPut, url.Values{"vault": {"v"}, "name": {"n"}, "size": {"4"}, "sum": {"00"}}, "four"},
		"a name too long":        {"PUT", pathPut, url.Values{"vault": {"v"}, "name": {strings.Repeat("n", maxName+1)}, "size": {"4"}, "sum": {sum}}, "four"},
		"a name with a newline":  {"PUT", pathPut, url.Values{"vault": {"v"}, "name": {"a\nb"}, "size": {"4"}, "sum": {sum}}, "four"},
		"no vault":               {"PUT", pathPut, url.Values{"name": {"n"}, "size": {"4"}, "sum": {sum}}, "four"},
		"no point":               {"PUT", pathComplete, url.Values{"vault": {"v"}}, "four"},
		"too many objects":       {"POST", pathLacks, nil, many},
		"an object of -1 bytes":  {"POST", pathLacks, nil, `{"vault":"v","objects":[{"n":"a","s":-1,"h":"` + sum + `"}]}`},
		"a huge object":          {"POST", pathLacks, nil, `{"vault":"v","objects":[{"n":"a","s":99999999999,"h":"` + sum + `"}]}`},
		"no JSON":                {"POST", pathOffer, nil, `{"id":`},
		"two values":             {"POST", pathOffer, nil, `{"id":"v"}{"id":"w"}`},
		"more than is read":      {"POST", pathOffer, nil, `{"id":"` + strings.Repeat("v", maxRequest) + `"}`},
		"an escape in the vault": {"GET", pathList, url.Values{"vault": {"\x1b[2J"}}, ""},
	} {
		o, err := w.raw(t, r.method, r.path, r.query, r.body)
		if err != nil || o.Error == nil || o.Error.Code != backstay.CodeReplicaRefused {
			t.Errorf("%s: %+v, %v", name, o, err)
		}
	}
	if o, err := w.raw(t, "GET", "/pair/v1/keys", nil, ""); err != nil || o.Error == nil || o.Error.Code != backstay.CodeUsage {
		t.Errorf("a call that there is not: %+v, %v", o, err)
	}
}

// TestWhatFailsThereIsToldWithoutItsDetails, but for what the codes are for.
func TestWhatFailsThereIsToldWithoutItsDetails(t *testing.T) {
	w := start(t, patient)
	w.offered(t)
	w.fake.Before = func(context.Context, string, string) error { return errors.New("open /srv/secret/path: no such file") }
	_, err := w.client.Vaults(t.Context())
	wantCode(t, err, backstay.CodeInternal)
	if strings.Contains(err.Error(), "secret") {
		t.Errorf("%v", err)
	}
	w.fake.Before = func(context.Context, string, string) error { panic("inside") }
	if _, err = w.client.Vaults(t.Context()); !backstay.IsCode(err, backstay.CodeInternal) {
		t.Errorf("a call that panicked: %v", err)
	}
	w.fake.Before = nil
	if _, err = w.client.Vaults(t.Context()); err != nil {
		t.Errorf("and after it: %v", err)
	}
}

// answering is a server with the right certificate that answers as it likes.
func answering(t *testing.T, w *world, answer func(http.ResponseWriter, *http.Request)) *Client {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	srv := &http.Server{Handler: http.HandlerFunc(answer), ReadHeaderTimeout: time.Minute}
	var all sync.WaitGroup
	all.Go(func() {
		_ = srv.Serve(tls.NewListener(l, &tls.Config{Certificates: []tls.Certificate{w.here.certificate}, ClientAuth: tls.RequireAnyClientCert, MinVersion: tls.VersionTLS13}))
	})
	c := dial(w.west, "east", l.Addr().String(), w.here.Fingerprint(), w.tm)
	t.Cleanup(func() {
		c.Close()
		_ = srv.Close()
		all.Wait()
	})
	return c
}

// TestAnswersOfABadServerAreNotBelieved and end in time and memory.
func TestAnswersOfABadServerAreNotBelieved(t *testing.T) {
	w := start(t, patient)
	s := pairtest.Vault(nil)
	var asked []pair.Object
	for _, o := range s.Objects {
		asked = append(asked, o.Object())
	}
	result := func(v string) string {
		var b bytes.Buffer
		_ = writeFrame(&b, frameOutcome, []byte(`{"result":`+v+`}`))
		return b.String()
	}
	data := func(v string) string {
		var b bytes.Buffer
		_ = writeFrame(&b, frameData, []byte(v))
		return b.String()
	}
	sum := strings.Repeat("00", 32)
	for name, r := range map[string]struct {
		answer string
		call   func(c *Client) error
	}{
		"nothing":                {"", func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"no frames":              {"<html>hello</html>", func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"a frame too long":       {"d\xff\xff\xff\xff", func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"an outcome that is cut": {result(`[]`)[:8], func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"another kind of result": {result(`"x"`), func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"data nobody asked for":  {data("x") + result(`[]`), func(c *Client) error { _, err := c.Vaults(t.Context()); return err }},
		"names not asked for":    {result(`["packs/zz"]`), func(c *Client) error { _, err := c.Lacks(t.Context(), "v", asked); return err }},
		"a name twice":           {result(`["header","header"]`), func(c *Client) error { _, err := c.Lacks(t.Context(), "v", asked); return err }},
		"a list of a huge object": {data(`[{"n":"a","s":99999999999,"h":"`+sum+`"}]`) + result(`null`), func(c *Client) error {
			return c.List(t.Context(), "v", func(pair.Object) error { return nil })
		}},
		"a list that is cut": {data(`[{"n":"a","s":1,"h":"` + sum + `"}]`), func(c *Client) error {
			return c.List(t.Context(), "v", func(pair.Object) error { return nil })
		}},
		"an object that is cut": {data("half"), func(c *Client) error {
			r, err := c.Get(t.Context(), "v", "n")
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.ReadAll(r)
			return err
		}},
		"an object without end": {strings.Repeat(data(strings.Repeat("x", maxData)), pair.MaxObject/maxData+1), func(c *Client) error {
			r, err := c.Get(t.Context(), "v", "n")
			if err != nil {
				return err
			}
			defer r.Close()
			_, err = io.Copy(io.Discard, r)
			return err
		}},
	} {
		t.Run(name, func(t *testing.T) {
			c := answering(t, w, func(out http.ResponseWriter, _ *http.Request) { _, _ = io.WriteString(out, r.answer) })
			wantCode(t, r.call(c), backstay.CodeRegionAway)
		})
	}
	c := answering(t, w, func(out http.ResponseWriter, _ *http.Request) {
		_ = writeFrame(out, frameOutcome, []byte(`{"error":{"code":"data-damaged","message":"\u001b[2Jall is lost`+strings.Repeat("x", 5000)+`"}}`))
	})
	_, err := c.Vaults(t.Context())
	wantCode(t, err, backstay.CodeDamaged)
	if text := err.Error(); len(text) > 1000 || strings.Contains(text, "\x1b") {
		t.Errorf("passed on as it came: %.80q", text)
	}
	c = answering(t, w, func(out http.ResponseWriter, r *http.Request) {
		http.Redirect(out, r, "https://"+w.address+"/elsewhere", http.StatusTemporaryRedirect)
	})
	_, err = c.Vaults(t.Context())
	wantCode(t, err, backstay.CodeRegionAway)
}

// pipe carries connections to the server, and can stop to in the middle.
type pipe struct {
	l      net.Listener
	to     string
	after  atomic.Int64 // bytes of requests after which nothing moves any more; -1 for never
	passed atomic.Int64
	all    sync.WaitGroup
	stop   chan struct{}
}

func newPipe(t *testing.T, to string) *pipe {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	p := &pipe{l: l, to: to, stop: make(chan struct{})}
	p.after.Store(-1)
	p.all.Go(func() {
		for {
			in, err := l.Accept()
			if err != nil {
				return
			}
			p.all.Go(func() { p.carry(in) })
		}
	})
	t.Cleanup(func() {
		_ = l.Close()
		close(p.stop)
		p.all.Wait()
	})
	return p
}

func (p *pipe) carry(in net.Conn) {
	defer in.Close()
	out, err := net.Dial("tcp", p.to)
	if err != nil {
		return
	}
	defer out.Close()
	copyTo := func(to, from net.Conn, count bool) {
		buf := make([]byte, 4<<10)
		for {
			n, err := from.Read(buf)
			if count {
				p.passed.Add(int64(n))
			}
			if most := p.after.Load(); most >= 0 && p.passed.Load() > most {
				<-p.stop // a cable that was cut says nothing
				return
			}
			if _, werr := to.Write(buf[:n]); err != nil || werr != nil {
				return
			}
		}
	}
	var both sync.WaitGroup
	both.Go(func() { copyTo(out, in, true); _ = out.Close(); _ = in.Close() })
	both.Go(func() { copyTo(in, out, false); _ = out.Close(); _ = in.Close() })
	both.Wait()
}

// TestACutCableEndsEveryCall with the reason, wherever it is cut.
func TestACutCableEndsEveryCall(t *testing.T) {
	w := start(t, quick)
	s := w.offered(t)
	p := newPipe(t, w.address)
	for _, after := range []int64{0, 200, 3000, 500_000} {
		p.after.Store(-1)
		p.passed.Store(0)
		c := dial(w.west, "east", p.l.Addr().String(), w.here.Fingerprint(), quick)
		p.after.Store(after)
		err := c.Put(t.Context(), s.Offer.ID, s.Objects[1].Object(), bytes.NewReader(s.Objects[1].Content))
		wantCode(t, err, backstay.CodeRegionAway)
		c.Close()
	}
	if held := w.fake.Objects(s.Offer.ID); held[s.Objects[1].Name] != nil {
		t.Error("half of an object is held")
	}
	if err := w.client.Put(t.Context(), s.Offer.ID, s.Objects[1].Object(), bytes.NewReader(s.Objects[1].Content)); err != nil {
		t.Errorf("and without the cut: %v", err)
	}
}

// TestASlowAnswerIsWaitedFor as long as the other side gives signs of life, also where
// it takes what was sent to the last byte and then works; without them it is not.
func TestASlowAnswerIsWaitedFor(t *testing.T) {
	w := start(t, quick)
	s := w.offered(t)
	w.fake.Before = func(_ context.Context, call, _ string) error {
		if call != "offer" {
			time.Sleep(3 * quick.silence)
		}
		return nil
	}
	if _, err := w.client.Vaults(t.Context()); err != nil {
		t.Errorf("vaults: %v", err)
	}
	if err := w.client.Complete(t.Context(), s.Offer.ID, s.Point, s.Manifest); !backstay.IsCode(err, backstay.CodeReplicaRefused) {
		t.Errorf("complete: %v", err)
	}
	c := answering(t, w, func(_ http.ResponseWriter, r *http.Request) { <-r.Context().Done() })
	_, err := c.Vaults(t.Context())
	wantCode(t, err, backstay.CodeRegionAway)
	// Signs of life alone do not keep a call for ever.
	hasty := quick
	hasty.answer = 3 * quick.silence
	c = answering(t, w, func(out http.ResponseWriter, r *http.Request) {
		for writeFrame(out, frameAlive, nil) == nil && http.NewResponseController(out).Flush() == nil && r.Context().Err() == nil {
			time.Sleep(quick.alive)
		}
	})
	c.tm = hasty
	_, err = c.Vaults(t.Context())
	wantCode(t, err, backstay.CodeRegionAway)
}

// TestASlowSourceIsNoDeadServer: an object may be sent as slowly as a limiter lets it.
func TestASlowSourceIsNoDeadServer(t *testing.T) {
	w := start(t, quick)
	s := w.offered(t)
	limited := pair.Throttle(w.client, &pair.Limiter{Rate: 100_000})
	o := s.Objects[2] // 120000 bytes: more than a second, three times the silence
	if err := limited.Put(t.Context(), s.Offer.ID, o.Object(), bytes.NewReader(o.Content)); err != nil {
		t.Error(err)
	}
}

// TestACallerThatGivesUpIsNotTold that the region is away.
func TestACallerThatGivesUpIsNotTold(t *testing.T) {
	w := start(t, patient)
	s := w.offered(t)
	ctx, cancel := context.WithCancelCause(t.Context())
	why := errors.New("the job was cancelled")
	ended := make(chan struct{})
	w.fake.Before = func(ctx context.Context, call, _ string) error {
		if call == "complete" {
			cancel(why)
			<-ctx.Done() // the server learns that nobody waits for it
			close(ended)
		}
		return nil
	}
	err := w.client.Complete(ctx, s.Offer.ID, s.Point, s.Manifest)
	if !errors.Is(err, why) {
		t.Errorf("got %v", err)
	}
	<-ended
}

// TestManyCallsRunAtOnce, and what is beyond the bound waits its turn.
func TestManyCallsRunAtOnce(t *testing.T) {
	w := start(t, patient)
	s := w.offered(t)
	var all sync.WaitGroup
	for i := range 2 * connections {
		all.Go(func() {
			o := pairtest.Sample{Name: fmt.Sprintf("packs/%03d", i), Content: bytes.Repeat([]byte{byte(i)}, 100_000)}
			if err := w.client.Put(t.Context(), s.Offer.ID, o.Object(), bytes.NewReader(o.Content)); err != nil {
				t.Errorf("put %d: %v", i, err)
			}
		})
	}
	all.Wait()
	if n := len(w.fake.Objects(s.Offer.ID)); n != 2*connections {
		t.Errorf("%d objects are held", n)
	}
}

// TestAStopEndsWhatIsUnderWay.
func TestAStopEndsWhatIsUnderWay(t *testing.T) {
	w := start(t, patient)
	w.offered(t)
	begun := make(chan struct{})
	w.fake.Before = func(ctx context.Context, _, _ string) error {
		close(begun)
		<-ctx.Done()
		return ctx.Err()
	}
	ended := make(chan error, 1)
	go func() { _, err := w.client.Vaults(t.Context()); ended <- err }()
	<-begun
	w.stop()
	if err := <-ended; err == nil {
		t.Error("a call that was ended had a result")
	}
}
