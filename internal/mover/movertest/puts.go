package movertest

import (
	"context"
	"errors"
	"io"
	"strings"
	"testing"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// PutFiles is mover.Puts'. The fake counts what it is given, keeps it in Put, and
// says of it that it is one file.
func (f *Fake) PutFiles(ctx context.Context, r mover.PutRequest, content io.ReadCloser, progress mover.Progress) (mover.PutReport, error) {
	defer func() { _ = content.Close() }()
	if err := f.enter(ctx, "PutFiles"); err != nil {
		return mover.PutReport{}, err
	}
	if r.VM != f.Machine.ID {
		return mover.PutReport{}, backstay.Errorf(backstay.CodeUnknownVM, "there is no VM %s", r.VM)
	}
	data, err := io.ReadAll(content)
	if err != nil {
		return mover.PutReport{}, err
	}
	f.mu.Lock()
	f.Put = append(f.Put, data)
	f.mu.Unlock()
	if progress != nil {
		progress(mover.Report{Phase: "put", Done: int64(len(data)), Total: int64(len(data))})
	}
	return mover.PutReport{Files: 1, Bytes: int64(len(data))}, nil
}

// EndPut is mover.Puts'. The fake never leaves anything.
func (f *Fake) EndPut(ctx context.Context, _ backstay.JobID) (mover.PutReport, bool, error) {
	return mover.PutReport{}, false, f.enter(ctx, "EndPut")
}

// closing tells whether it was closed.
type closing struct {
	io.Reader
	closed chan struct{}
}

func (c *closing) Close() error {
	select {
	case <-c.closed:
	default:
		close(c.closed)
	}
	return nil
}

// testPut: content that cannot be put is closed all the same, a content that breaks
// off fails the put, and a job that put nothing can be ended.
func testPut(t *testing.T, s Subject) {
	r := mover.PutRequest{Job: otherJob, VM: nobody, To: "/", Conflict: backstay.ConflictSkip}
	content := &closing{strings.NewReader(strings.Repeat("no items", 1<<16)), make(chan struct{})}
	if _, err := s.Mover.PutFiles(t.Context(), r, content, nil); !backstay.IsCode(err, backstay.CodeUnknownVM) {
		t.Errorf("files were put into a VM that is not there: %v", err)
	}
	<-content.closed
	broken := errors.New("the other host went away")
	r.VM = s.VM
	content = &closing{io.MultiReader(strings.NewReader("bits"), failing{broken}), make(chan struct{})}
	if _, err := s.Mover.PutFiles(t.Context(), r, content, nil); err == nil {
		t.Error("content that broke off was put")
	}
	<-content.closed
	for range 2 {
		if _, complete, err := s.Mover.EndPut(t.Context(), otherJob); complete || err != nil {
			t.Errorf("a put that was not there ended with %v, %v", complete, err)
		}
	}
}

type failing struct{ err error }

func (f failing) Read([]byte) (int, error) { return 0, f.err }
