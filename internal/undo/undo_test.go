package undo_test

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"testing"

	"github.com/backstay/backstay/internal/undo"
)

func TestStepsAreUndoneInTheOppositeOrder(t *testing.T) {
	var stack undo.Stack
	var order []string
	for _, name := range []string{"a", "b", "c"} {
		stack.Push(name, func(context.Context) error { order = append(order, name); return nil })
	}
	if err := stack.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
	if want := []string{"c", "b", "a"}; !slices.Equal(order, want) {
		t.Errorf("order %v, want %v", order, want)
	}
	if stack.Len() != 0 {
		t.Errorf("%d steps are left after Run", stack.Len())
	}
}

func TestAFailingStepDoesNotKeepTheOthersFromBeingUndone(t *testing.T) {
	var stack undo.Stack
	broken := errors.New("broken")
	first := false
	stack.Push("first", func(context.Context) error { first = true; return nil })
	stack.Push("second", func(context.Context) error { return broken })
	stack.Push("third", func(context.Context) error { panic("third") })
	err := stack.Run(t.Context())
	if !first {
		t.Error("the first step was not undone")
	}
	if !errors.Is(err, broken) {
		t.Errorf("the error %v does not hold that of the second step", err)
	}
	if err == nil || !slices.Contains([]string{"undo third: panic: third\nundo second: broken"}, err.Error()) {
		t.Errorf("error %q", err)
	}
}

func TestAfterSuccessNothingIsUndone(t *testing.T) {
	var stack undo.Stack
	stack.Push("never", func(context.Context) error { t.Error("undone"); return nil })
	stack.Success()
	if err := stack.Run(t.Context()); err != nil {
		t.Fatal(err)
	}
}

func TestUndoRunsAlthoughTheContextEnded(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	var stack undo.Stack
	stack.Push("step", func(ctx context.Context) error { return ctx.Err() })
	if err := stack.Run(ctx); err != nil {
		t.Error(err)
	}
}

func ExampleStack() {
	work := func(ctx context.Context) error {
		var stack undo.Stack
		defer func() { _ = stack.Run(ctx) }()
		stack.Push("remove the overlay", func(context.Context) error { fmt.Println("overlay removed"); return nil })
		fmt.Println("overlay made")
		return errors.New("the snapshot failed")
	}
	fmt.Println(work(context.Background()))
	// Output:
	// overlay made
	// overlay removed
	// the snapshot failed
}
