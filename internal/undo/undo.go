// Package undo holds the undo stack: a step that touches the outside world
// pushes its undo first, and if the work does not end well they run in the
// opposite order.
//
// It keeps its stack in memory only. What must also be undone after a crash is
// written to the job's saved state by the engine, which pushes the same
// functions again from there at its next life.
package undo

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"sync"
)

// Stack is a last-in, first-out list of undo steps. The zero value is ready,
// and all methods may be called concurrently.
type Stack struct {
	mu    sync.Mutex
	steps []step // guarded by mu
}

type step struct {
	name string
	fn   func(context.Context) error
}

// Push adds the undo of what is about to be done. fn must be safe to run when
// that was never begun, was cut off in the middle, or was already undone.
func (s *Stack) Push(name string, fn func(context.Context) error) {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = append(s.steps, step{name, fn})
}

// Len returns how many steps would run.
func (s *Stack) Len() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	return len(s.steps)
}

// Success drops all steps: the work is done and nothing is to be undone.
func (s *Stack) Success() {
	s.mu.Lock()
	defer s.mu.Unlock()
	s.steps = nil
}

// Run undoes every step, the last pushed first, and empties the stack. It goes
// on after a step that fails or panics and returns all their errors, joined.
// The end of ctx does not keep it from running: undo happens most often because
// ctx ended. Only its values reach the steps, which set deadlines of their own.
func (s *Stack) Run(ctx context.Context) error {
	s.mu.Lock()
	steps := s.steps
	s.steps = nil
	s.mu.Unlock()

	ctx = context.WithoutCancel(ctx)
	var failed []error
	for _, st := range slices.Backward(steps) {
		if err := st.run(ctx); err != nil {
			failed = append(failed, fmt.Errorf("undo %s: %w", st.name, err))
		}
	}
	return errors.Join(failed...)
}

func (st step) run(ctx context.Context) (err error) {
	defer func() {
		if p := recover(); p != nil {
			err = fmt.Errorf("panic: %v", p)
		}
	}()
	return st.fn(ctx)
}
