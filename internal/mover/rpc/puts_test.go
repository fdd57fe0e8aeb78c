package rpc

import (
	"bytes"
	"context"
	"errors"
	"io"
	"math/rand/v2"
	"testing"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// TestContentGoesUpWhole, also more of it than one request may have.
func TestContentGoesUpWhole(t *testing.T) {
	w := serveFake(t, quick())
	content := make([]byte, maxRequest+12345)
	r := rand.NewChaCha8([32]byte{1})
	_, _ = r.Read(content)
	report, err := w.client.PutFiles(t.Context(), mover.PutRequest{Job: "01JB0000000000000000000001", VM: w.fake.Machine.ID, To: "/"},
		io.NopCloser(bytes.NewReader(content)), nil)
	if err != nil || report.Bytes != int64(len(content)) || !bytes.Equal(w.fake.Put[0], content) {
		t.Errorf("%+v, %v", report, err)
	}
}

// TestContentThatBreaksOffSaysWhy, and the call is over on the host, too.
func TestContentThatBreaksOffSaysWhy(t *testing.T) {
	w := serveFake(t, quick())
	why := backstay.Errorf(backstay.CodeMachineFailed, "the small machine ended")
	r, pipe := io.Pipe()
	go func() {
		_, _ = pipe.Write([]byte("some"))
		_ = pipe.CloseWithError(why)
	}()
	_, err := w.client.PutFiles(t.Context(), mover.PutRequest{Job: "01JB0000000000000000000001", VM: w.fake.Machine.ID, To: "/"}, r, nil)
	if !errors.Is(err, why) {
		t.Error(err)
	}
}

// TestAPutThatIsCancelledWaitsForNobody: content that never comes does not keep it.
func TestAPutThatIsCancelledWaitsForNobody(t *testing.T) {
	w := serveFake(t, quick())
	r, _ := io.Pipe()
	ctx, cancel := context.WithCancel(t.Context())
	time.AfterFunc(20*time.Millisecond, cancel)
	_, err := w.client.PutFiles(ctx, mover.PutRequest{Job: "01JB0000000000000000000001", VM: w.fake.Machine.ID, To: "/"}, r, nil)
	if !backstay.IsCode(err, backstay.CodeCancelled) {
		t.Error(err)
	}
}
