package vault

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
)

// A reader that goes away (a guest that was switched off, a restore that was
// cancelled) must not fail another one that waits for the same chunk.
func TestAReaderThatGivesUpDoesNotFailTheOthers(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCache[string](1000, func(string) int { return 1 })
		gone, giveUp := context.WithCancel(t.Context())
		defer giveUp()
		first, second := make(chan error, 1), make(chan error, 1)
		go func() {
			_, err := c.get(gone, "chunk", func() (string, error) {
				<-gone.Done()
				return "", readError("chunk", gone.Err())
			})
			first <- err
		}()
		synctest.Wait() // the first one fetches
		go func() {
			got, err := c.get(t.Context(), "chunk", func() (string, error) { return "content", nil })
			if err == nil && got != "content" {
				t.Errorf("got %q", got)
			}
			second <- err
		}()
		synctest.Wait() // the second one waits for it
		giveUp()
		if err := <-first; !errors.Is(err, context.Canceled) {
			t.Errorf("the reader that gave up: %v", err)
		}
		if err := <-second; err != nil {
			t.Errorf("the other reader: %v", err)
		}
	})
}
