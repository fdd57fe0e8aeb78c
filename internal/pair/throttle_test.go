package pair

import (
	"bytes"
	"context"
	"errors"
	"io"
	"testing"
	"testing/synctest"
	"time"
)

func TestALimiterHoldsItsRateOverAllReaders(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{Rate: 1000}
		begin := time.Now()
		done := make(chan error, 2)
		for range 2 {
			go func() {
				_, err := io.Copy(io.Discard, l.Reader(t.Context(), bytes.NewReader(make([]byte, 5000))))
				done <- err
			}()
		}
		if err := errors.Join(<-done, <-done); err != nil {
			t.Fatal(err)
		}
		// 10000 bytes at 1000 a second; the last piece is not waited for.
		if took := time.Since(begin); took < 9*time.Second || took > 10*time.Second {
			t.Errorf("it took %s", took)
		}
	})
}

func TestWaitingForTheLineEndsWithTheContext(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := &Limiter{Rate: 1}
		ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
		defer cancel()
		if _, err := io.Copy(io.Discard, l.Reader(ctx, bytes.NewReader(make([]byte, 5000)))); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestWithoutARateNothingIsHeldBack(t *testing.T) {
	r := bytes.NewReader(nil)
	var none *Limiter
	if none.Reader(t.Context(), r) != io.Reader(r) || (&Limiter{}).Reader(t.Context(), r) != io.Reader(r) {
		t.Error("a reader is wrapped for nothing")
	}
}
