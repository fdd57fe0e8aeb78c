package vault

import (
	"container/list"
	"sync"

	"golang.org/x/sync/singleflight"

	"github.com/backstay/backstay/internal/tier/vault/chunk"
)

// cache keeps the values that were used last, within a budget of bytes. Several
// callers that miss the same name make one fetch.
type cache[V any] struct {
	budget int
	size   func(V) int
	flight singleflight.Group

	mu    sync.Mutex
	used  int                          // guarded by mu
	order *list.List                   // guarded by mu; most recent first
	items map[chunk.Name]*list.Element // guarded by mu
}

type cached[V any] struct {
	name  chunk.Name
	value V
}

func newCache[V any](budget int, size func(V) int) *cache[V] {
	return &cache[V]{budget: budget, size: size, order: list.New(), items: map[chunk.Name]*list.Element{}}
}

// get returns the value of a name, fetched if need be. Values are shared and
// must not be changed.
func (c *cache[V]) get(name chunk.Name, fetch func() (V, error)) (V, error) {
	if v, ok := c.peek(name); ok {
		return v, nil
	}
	got, err, _ := c.flight.Do(string(name[:]), func() (any, error) {
		if v, ok := c.peek(name); ok {
			return v, nil
		}
		v, err := fetch()
		if err == nil {
			c.put(name, v)
		}
		return v, err
	})
	if err != nil {
		var none V
		return none, err
	}
	return got.(V), nil
}

func (c *cache[V]) peek(name chunk.Name) (V, bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if e, ok := c.items[name]; ok {
		c.order.MoveToFront(e)
		return e.Value.(cached[V]).value, true
	}
	var none V
	return none, false
}

func (c *cache[V]) put(name chunk.Name, v V) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if _, ok := c.items[name]; ok {
		return
	}
	c.items[name] = c.order.PushFront(cached[V]{name, v})
	c.used += c.size(v)
	for c.used > c.budget && c.order.Len() > 1 {
		last := c.order.Back()
		old := c.order.Remove(last).(cached[V])
		delete(c.items, old.name)
		c.used -= c.size(old.value)
	}
}
