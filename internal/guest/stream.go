package guest

import (
	"context"
	"errors"
	"io"

	"github.com/backstay/backstay/internal/guest/wire"
)

// open makes a call whose answer is a stream, and waits for the first of it.
func open(ctx context.Context, ch *channel, op string, q any) (*stream, error) {
	c, err := ch.begin(op, q)
	if err != nil {
		return nil, err
	}
	if err := c.lend(); err != nil {
		return nil, err
	}
	s := &stream{ctx: ctx, c: c}
	if err := s.wait(); err != nil && !errors.Is(err, io.EOF) {
		s.c.leave()
		return nil, err
	}
	return s, nil
}

// stream reads the data of a call.
type stream struct {
	ctx   context.Context
	c     *call
	chunk chunk    // what is being read
	slots []uint32 // that were read and not lent again
	owed  int      // bytes in no slot that were read and not granted again
}

// wait returns when there is something to read; io.EOF means that all was read.
func (s *stream) wait() error {
	for len(s.chunk.bytes) == 0 {
		if err := s.repay(); err != nil {
			return err
		}
		s.c.mu.Lock()
		if len(s.c.data) > 0 {
			s.chunk = s.c.data[0]
			s.c.data[0] = chunk{}
			s.c.data = s.c.data[1:]
			if s.chunk.own {
				s.c.held -= len(s.chunk.bytes)
				s.owed += len(s.chunk.bytes)
			}
			s.c.mu.Unlock()
			return nil
		}
		done, err := s.c.done, s.c.err
		s.c.mu.Unlock()
		if done && err == nil {
			return io.EOF
		}
		if done {
			return err
		}
		if err := s.c.sleep(s.ctx); err != nil {
			return err
		}
	}
	return nil
}

// repay lets the machine send as much as was read, not too often.
func (s *stream) repay() error {
	if len(s.slots) >= 2 {
		slots := s.slots
		s.slots = nil
		return s.c.lendThese(slots)
	}
	if s.owed >= wire.Window/4 {
		n := s.owed
		s.owed = 0
		return s.c.grant(n)
	}
	return nil
}

func (s *stream) Read(p []byte) (int, error) {
	if err := s.wait(); err != nil {
		return 0, err
	}
	n := copy(p, s.chunk.bytes)
	s.chunk.bytes = s.chunk.bytes[n:]
	if len(s.chunk.bytes) == 0 {
		s.finishChunk()
	}
	return n, nil
}

func (s *stream) finishChunk() {
	if s.chunk.bytes != nil && !s.chunk.own {
		s.slots = append(s.slots, s.chunk.slot)
	}
	s.chunk = chunk{}
}

// Close ends the call if it has not ended.
func (s *stream) Close() error {
	s.finishChunk()
	s.c.leave()
	s.c.ch.mu.Lock()
	defer s.c.ch.mu.Unlock()
	s.c.ch.free = append(s.c.ch.free, s.slots...)
	s.slots = nil
	return nil
}
