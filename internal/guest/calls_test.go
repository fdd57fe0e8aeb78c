package guest

import (
	"bufio"
	"context"
	"encoding/binary"
	"encoding/json"
	"errors"
	"io"
	"net"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/guest/wire"
)

// played returns a channel to a machine that a test plays: play gets each frame
// that the client sends.
func played(t *testing.T, play func(send func(wire.Frame), slots []byte, f wire.Frame)) *channel {
	ours, theirs := net.Pipe()
	slots := make([]byte, wire.SharedSize)
	ch := newChannel(ours, nil, time.Minute, func(error) { ours.Close() })
	ch.slots = slots
	out := make(chan wire.Frame, 1000)
	go func() {
		for f := range out {
			if wire.WriteFrame(theirs, f) != nil {
				theirs.Close()
			}
		}
	}()
	go func() {
		defer close(out)
		in := bufio.NewReader(theirs)
		for {
			f, err := wire.ReadFrame(in)
			if err != nil {
				return
			}
			play(func(f wire.Frame) { out <- f }, slots, f)
		}
	}()
	go ch.read(bufio.NewReader(ours))
	t.Cleanup(func() { ch.end(errEnded); theirs.Close() })
	return ch
}

func filled(call, slot uint32, n int) wire.Frame {
	body := binary.BigEndian.AppendUint32(nil, slot)
	return wire.Frame{Call: call, Kind: wire.FrameFilled, Body: binary.BigEndian.AppendUint32(body, uint32(n))}
}

func TestAStreamArrivesWholeAndInOrder(t *testing.T) {
	var want []byte
	ch := played(t, func(send func(wire.Frame), slots []byte, f wire.Frame) {
		if f.Kind != wire.FrameLend {
			return
		}
		for b := f.Body; len(b) > 0; b = b[4:] {
			slot := binary.BigEndian.Uint32(b)
			if len(want) >= 5<<20 {
				continue
			}
			n := wire.SlotSize - len(want)%1000
			for i := range n {
				slots[int(slot)*wire.SlotSize+i] = byte(len(want))
				want = append(want, byte(len(want)))
			}
			send(filled(f.Call, slot, n))
			if len(want) >= 5<<20 {
				send(wire.Frame{Call: f.Call, Kind: wire.FrameEnd})
			}
		}
	})
	s, err := open(t.Context(), ch, wire.OpRead, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	got, err := io.ReadAll(s)
	if err != nil || string(got) != string(want) {
		t.Fatalf("%d bytes of %d, error %v", len(got), len(want), err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	allFree(t, ch)
}

// allFree checks that nobody has a slot.
func allFree(t *testing.T, ch *channel) {
	t.Helper()
	ch.mu.Lock()
	defer ch.mu.Unlock()
	seen := map[uint32]bool{}
	for _, slot := range ch.free {
		seen[slot] = true
	}
	if len(ch.free) != wire.Slots || len(seen) != wire.Slots {
		t.Errorf("%d slots are free, %d of them different; want %d", len(ch.free), len(seen), wire.Slots)
	}
}

func TestWithoutAFreeSlotDataComesOverTheChannel(t *testing.T) {
	ch := played(t, func(send func(wire.Frame), _ []byte, f wire.Frame) {
		if f.Kind == wire.FrameCredit {
			send(wire.Frame{Call: f.Call, Kind: wire.FrameData, Body: []byte("hello")})
			send(wire.Frame{Call: f.Call, Kind: wire.FrameEnd})
		}
	})
	ch.free = nil
	s, err := open(t.Context(), ch, wire.OpRead, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := io.ReadAll(s); err != nil || string(got) != "hello" {
		t.Fatalf("%q, %v", got, err)
	}
}

func TestAMachineThatTalksNonsenseIsEnded(t *testing.T) {
	lie := func(kind wire.FrameKind, body []byte) func(func(wire.Frame), []byte, wire.Frame) {
		return func(send func(wire.Frame), _ []byte, f wire.Frame) {
			if f.Kind == wire.FrameRequest {
				send(wire.Frame{Call: f.Call, Kind: kind, Body: body})
			}
		}
	}
	flood := func(kind wire.FrameKind) func(func(wire.Frame), []byte, wire.Frame) {
		return func(send func(wire.Frame), _ []byte, f wire.Frame) {
			for range wire.MaxAnswer/wire.MaxFrame + 1 {
				send(wire.Frame{Call: f.Call, Kind: kind, Body: make([]byte, wire.MaxFrame)})
			}
		}
	}
	for name, play := range map[string]func(func(wire.Frame), []byte, wire.Frame){
		"a kind that does not exist":  lie('?', nil),
		"an answer that is no JSON":   lie(wire.FrameAnswer, []byte("{")),
		"an error that is no JSON":    lie(wire.FrameError, []byte("x")),
		"a slot that it was not lent": lie(wire.FrameFilled, filled(0, 3, 10).Body),
		"a slot that does not exist":  lie(wire.FrameFilled, filled(0, 1<<31, 10).Body),
		"a slot that is cut off":      lie(wire.FrameFilled, []byte{0, 0}),
		"an answer without end":       flood(wire.FramePart),
		"data that nobody asked for":  flood(wire.FrameData),
		"a frame of a call never made": func(send func(wire.Frame), _ []byte, f wire.Frame) {
			send(wire.Frame{Call: f.Call + 1, Kind: wire.FrameEnd})
		},
		"an end that comes twice": func(send func(wire.Frame), _ []byte, f wire.Frame) {
			send(wire.Frame{Call: f.Call, Kind: wire.FramePart})
			send(wire.Frame{Call: 0, Kind: wire.FrameReady})
		},
	} {
		t.Run(name, func(t *testing.T) {
			_, err := ask[struct{}](t.Context(), played(t, play), wire.OpStat, struct{}{})
			if !errors.Is(err, errProtocol) {
				t.Errorf("error is %v", err)
			}
		})
	}
}

func TestASlotHoldsNoMoreThanItsSize(t *testing.T) {
	ch := played(t, func(send func(wire.Frame), _ []byte, f wire.Frame) {
		if f.Kind == wire.FrameLend {
			send(filled(f.Call, binary.BigEndian.Uint32(f.Body), wire.SlotSize+1))
		}
	})
	if _, err := open(t.Context(), ch, wire.OpRead, struct{}{}); !errors.Is(err, errProtocol) {
		t.Errorf("error is %v", err)
	}
}

func TestACallThatIsLeftIsCancelledAndGivesItsSlotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		cancelled := false
		ch := played(t, func(send func(wire.Frame), _ []byte, f wire.Frame) {
			switch f.Kind {
			case wire.FrameLend:
				send(filled(f.Call, binary.BigEndian.Uint32(f.Body), 10))
			case wire.FrameCancel:
				cancelled = true
				send(wire.Frame{Call: f.Call, Kind: wire.FrameError, Body: []byte(`{"code":"cancelled"}`)})
			}
		})
		s, err := open(t.Context(), ch, wire.OpRead, struct{}{})
		if err != nil {
			t.Fatal(err)
		}
		if err := errors.Join(s.Close(), s.Close()); err != nil {
			t.Fatal(err)
		}
		synctest.Wait()
		if !cancelled || len(ch.calls) != 0 {
			t.Errorf("cancelled is %v, %d calls are open", cancelled, len(ch.calls))
		}
		allFree(t, ch)
	})
}

func TestWhatAMachineSaysCannotSteerATerminal(t *testing.T) {
	body, err := json.Marshal(wire.Error{Code: "no-such-code", Message: "a\x1b[2Jb\r\nc", Cause: strings.Repeat("x", 1<<20)})
	if err != nil {
		t.Fatal(err)
	}
	ch := played(t, func(send func(wire.Frame), _ []byte, f wire.Frame) {
		send(wire.Frame{Call: f.Call, Kind: wire.FrameError, Body: body[:min(len(body), wire.MaxFrame)]})
	})
	body, _ = json.Marshal(wire.Error{Code: "no-such-code", Message: "a\x1b[2Jb\r\nc", Cause: strings.Repeat("x", 1<<19)})
	_, err = ask[struct{}](t.Context(), ch, wire.OpStat, struct{}{})
	var e *backstay.Error
	if !errors.As(err, &e) || e.Code != backstay.CodeMachineFailed || e.Message != "a[2Jb c" || len(e.Cause) > 5000 {
		t.Errorf("error is %.200v", err)
	}
}

func TestAMachineThatHangsIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := played(t, func(func(wire.Frame), []byte, wire.Frame) {})
		if _, err := ask[struct{}](t.Context(), ch, wire.OpStat, struct{}{}); !errors.Is(err, errSilent) {
			t.Errorf("error is %v", err)
		}
	})
}

func TestWithoutASignOfLifeAMachineIsEnded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		ch := played(t, func(func(wire.Frame), []byte, wire.Frame) {})
		go ch.pulse(time.Second, 2*time.Second)
		_, err := ask[struct{}](t.Context(), ch, wire.OpStat, struct{}{})
		if !errors.Is(err, errSilent) || !strings.Contains(err.Error(), "sign of life") {
			t.Errorf("error is %v", err)
		}
	})
}

func TestACallEndsWithItsContext(t *testing.T) {
	ch := played(t, func(func(wire.Frame), []byte, wire.Frame) {})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := ask[struct{}](ctx, ch, wire.OpStat, struct{}{}); !errors.Is(err, context.DeadlineExceeded) {
		t.Errorf("error is %v", err)
	}
}

func TestAllCallsFailWhenTheMachineEnds(t *testing.T) {
	ch := played(t, func(send func(wire.Frame), slots []byte, f wire.Frame) {
		if f.Kind == wire.FrameLend {
			send(filled(f.Call, binary.BigEndian.Uint32(f.Body), 10))
		}
	})
	s, err := open(t.Context(), ch, wire.OpRead, struct{}{})
	if err != nil {
		t.Fatal(err)
	}
	ch.end(errEnded)
	// What had come is still read; that more is missing is an error and no end.
	if got, err := io.ReadAll(s); len(got) != 10 || !errors.Is(err, errEnded) {
		t.Errorf("%d bytes, error %v", len(got), err)
	}
	if _, err := ask[struct{}](t.Context(), ch, wire.OpStat, struct{}{}); !errors.Is(err, errEnded) {
		t.Errorf("error is %v", err)
	}
}
