package idle_test

import (
	"bytes"
	"errors"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"github.com/backstay/backstay/internal/blob/idle"
)

func TestAHungServerIsGivenUp(t *testing.T) {
	release := make(chan struct{})
	for name, serve := range map[string]http.HandlerFunc{
		"before the answer": func(http.ResponseWriter, *http.Request) { <-release },
		"within the answer": func(w http.ResponseWriter, _ *http.Request) {
			w.Header().Set("Content-Length", "100")
			_, _ = w.Write([]byte("begun"))
			w.(http.Flusher).Flush()
			<-release
		},
	} {
		t.Run(name, func(t *testing.T) {
			server := httptest.NewServer(serve)
			defer server.Config.Close()
			t.Cleanup(server.CloseClientConnections)
			client := http.Client{Transport: idle.New(50*time.Millisecond, nil)}
			answer, err := client.Get(server.URL)
			if err == nil {
				_, err = io.ReadAll(answer.Body)
				answer.Body.Close()
			}
			if !errors.Is(err, idle.ErrStalled) {
				t.Errorf("%v, want ErrStalled", err)
			}
		})
	}
	close(release)
}

func TestAServerThatTakesNothingIsGivenUp(t *testing.T) {
	l, err := net.Listen("tcp", "127.0.0.1:0") // accepts, by the kernel, and reads nothing
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	client := http.Client{Transport: idle.New(50*time.Millisecond, nil)}
	_, err = client.Post("http://"+l.Addr().String(), "", bytes.NewReader(make([]byte, 32<<20)))
	if !errors.Is(err, idle.ErrStalled) {
		t.Errorf("%v, want ErrStalled", err)
	}
}

func TestASlowAnswerThatMovesIsAwaited(t *testing.T) {
	const limit = time.Second
	server := httptest.NewServer(http.HandlerFunc(func(w http.ResponseWriter, _ *http.Request) {
		for range 6 { // altogether longer than the limit
			_, _ = w.Write([]byte("x"))
			w.(http.Flusher).Flush()
			time.Sleep(limit / 4)
		}
	}))
	defer server.Close()
	client := http.Client{Transport: idle.New(limit, nil)}
	answer, err := client.Get(server.URL)
	if err != nil {
		t.Fatal(err)
	}
	defer answer.Body.Close()
	if got, err := io.ReadAll(answer.Body); err != nil || len(got) != 6 {
		t.Errorf("%q, %v", got, err)
	}
}
