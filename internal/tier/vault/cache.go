package vault

import (
	"container/list"
	"context"
	"errors"
	"fmt"
	"sync"

	"golang.org/x/sync/singleflight"
)

// cache keeps the values that were used last, within a budget of bytes. Several
// callers that miss the same name make one fetch.
type cache[K comparable, V any] struct {
	budget int
	size   func(V) int
	flight singleflight.Group

	mu    sync.Mutex
	used  int                 // guarded by mu
	order *list.List          // guarded by mu; most recent first
	items map[K]*list.Element // guarded by mu
}

type cached[K comparable, V any] struct {
	name  K
	value V
}

func newCache[K comparable, V any](budget int, size func(V) int) *cache[K, V] {
	return &cache[K, V]{budget: budget, size: size, order: list.New(), items: map[K]*list.Element{}}
}

// get returns the value of a name, fetched if need be. Values are shared and
// must not be changed. fetch ends with ctx; that of a caller who gave up fails
// nobody else who waited for it.
func (c *cache[K, V]) get(ctx context.Context, name K, fetch func() (V, error)) (V, error) {
	for {
		if v, ok := c.peek(name); ok {
			return v, nil
		}
		got, err, _ := c.flight.Do(fmt.Sprint(name), func() (any, error) {
			if v, ok := c.peek(name); ok {
				return v, nil
			}
			v, err := fetch()
			if err == nil {
				c.put(name, v)
			} else if ctx.Err() != nil {
				err = gaveUp{err}
			}
			return v, err
		})
		var by gaveUp
		switch {
		case err == nil:
			return got.(V), nil
		case errors.As(err, &by) && ctx.Err() == nil:
			continue // somebody else
		case errors.As(err, &by):
			err = by.error
		}
		var none V
		return none, err
	}
}

// gaveUp is the error of a fetch whose caller gave up.
type gaveUp struct{ error }

func (c *cache[K, V]) peek(name K) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[name]; ok {
		c.order.MoveToFront(e)
		return e.Value.(cached[K, V]).value, true
	}
	var none V
	return none, false
}

func (c *cache[K, V]) put(name K, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[name]; ok {
		return
	}
	c.items[name] = c.order.PushFront(cached[K, V]{name, v})
	c.used += c.size(v)
	for c.used > c.budget && c.order.Len() > 1 {
		last := c.order.Back()
		old := c.order.Remove(last).(cached[K, V])
		delete(c.items, old.name)
		c.used -= c.size(old.value)
	}
}
