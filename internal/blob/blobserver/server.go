// Package blobserver starts real object stores for tests: versitygw for S3 and
// Azurite for Azure Blob, each on a port and a folder of its own, and a proxy that
// breaks their connections.
//
// It is for integration tests only: the first use builds and installs them
// (scripts/test-servers), which takes a minute or two.
package blobserver

import (
	"context"
	"encoding/base64"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"runtime"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Keys of every server that is started here.
const (
	AccessKey = "testkey"
	SecretKey = "testsecret"
	Account   = "testaccount"
)

// AccountKey is the key of Account.
var AccountKey = base64.StdEncoding.EncodeToString([]byte("the key of the tests"))

// programs returns the programs of both servers, installed once a process.
var programs = sync.OnceValues(func() ([]string, error) {
	_, here, _, _ := runtime.Caller(0)
	c := exec.Command(filepath.Join(filepath.Dir(here), "..", "..", "..", "scripts", "test-servers"))
	c.Stderr = os.Stderr
	out, err := c.Output()
	return strings.Fields(string(out)), err
})

// Server is a server of this test. It ends with the test.
type Server struct {
	Addr string // HOST:PORT
	Root string // its folder

	t       testing.TB
	command func() *exec.Cmd
	running *exec.Cmd
	ended   chan struct{}
	end     os.Signal
}

// S3 starts a server with the given empty buckets, at a region of us-east-1.
func S3(t testing.TB, buckets ...string) *Server {
	program := program(t, 0)
	s := &Server{Addr: address(t), Root: t.TempDir(), t: t, end: os.Kill}
	data := filepath.Join(s.Root, "data")
	for _, b := range append(buckets, ".") {
		if err := os.MkdirAll(filepath.Join(data, b), 0o700); err != nil {
			t.Fatal(err)
		}
	}
	s.command = func() *exec.Cmd {
		c := exec.Command(program, "--quiet", "--port", s.Addr, "posix", data)
		c.Env = append(os.Environ(), "ROOT_ACCESS_KEY="+AccessKey, "ROOT_SECRET_KEY="+SecretKey)
		return c
	}
	s.Start()
	return s
}

// Azure starts a server without a container.
func Azure(t testing.TB) *Server {
	program := program(t, 1)
	s := &Server{Addr: address(t), Root: t.TempDir(), t: t, end: os.Interrupt}
	host, port, _ := net.SplitHostPort(s.Addr)
	s.command = func() *exec.Cmd {
		c := exec.Command(program, "--blobHost", host, "--blobPort", port, "--location", s.Root,
			"--silent", "--skipApiVersionCheck", "--disableTelemetry")
		c.Env = append(os.Environ(), "AZURITE_ACCOUNTS="+Account+":"+AccountKey)
		return c
	}
	s.Start()
	return s
}

func program(t testing.TB, i int) string {
	t.Helper()
	all, err := programs()
	if err != nil || len(all) != 2 {
		t.Fatalf("install the test servers: %v, %v", all, err)
	}
	return all[i]
}

// address returns one that is free now.
func address(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

// Start starts the server on its old folder and waits until it answers.
func (s *Server) Start() {
	s.t.Helper()
	var log strings.Builder
	s.running = s.command()
	s.running.Stdout, s.running.Stderr = &log, &log
	s.running.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.running.Start(); err != nil {
		s.t.Fatal(err)
	}
	ended, running := make(chan struct{}), s.running
	s.ended = ended
	go func() { _ = running.Wait(); close(ended) }()
	s.t.Cleanup(func() { _ = running.Process.Kill(); <-ended })
	ctx, cancel := context.WithTimeout(s.t.Context(), time.Minute)
	defer cancel()
	for {
		r, _ := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+s.Addr+"/", nil)
		answer, err := http.DefaultTransport.RoundTrip(r)
		if err == nil {
			answer.Body.Close()
			return
		}
		select {
		case <-ended:
			s.t.Fatalf("the server ended:\n%s", log.String())
		case <-ctx.Done():
			s.t.Fatalf("the server does not answer: %v", err)
		case <-time.After(20 * time.Millisecond):
		}
	}
}

// Stop ends the server: versitygw at once, as a loss of power would, Azurite in
// order, because it keeps its tables in memory until then.
func (s *Server) Stop() {
	s.t.Helper()
	if err := s.running.Process.Signal(s.end); err != nil {
		s.t.Fatal(err)
	}
	<-s.ended
}
