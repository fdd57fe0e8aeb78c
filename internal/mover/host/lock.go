package host

import (
	"context"
	"sync"
)

// keyedMutex is one lock for each key, made as needed. Its zero value is ready.
type keyedMutex struct {
	mu    sync.Mutex
	locks map[string]*keyedLock // guarded by mu
}

type keyedLock struct {
	slot    chan struct{} // holds one value while taken
	waiting int           // holders and waiters; guarded by keyedMutex.mu
}

// lock waits for the key's lock and returns what gives it back, or the error
// of ctx if that ends first.
func (k *keyedMutex) lock(ctx context.Context, key string) (unlock func(), err error) {
	k.mu.Lock()
	if k.locks == nil {
		k.locks = map[string]*keyedLock{}
	}
	l := k.locks[key]
	if l == nil {
		l = &keyedLock{slot: make(chan struct{}, 1)}
		k.locks[key] = l
	}
	l.waiting++
	k.mu.Unlock()
	select {
	case l.slot <- struct{}{}:
		return sync.OnceFunc(func() { <-l.slot; k.leave(key, l) }), nil
	case <-ctx.Done():
		k.leave(key, l)
		return nil, context.Cause(ctx)
	}
}

func (k *keyedMutex) leave(key string, l *keyedLock) {
	k.mu.Lock()
	defer k.mu.Unlock()
	if l.waiting--; l.waiting == 0 {
		delete(k.locks, key)
	}
}

// held tells whether somebody holds the key's lock or waits for it.
func (k *keyedMutex) held(key string) bool {
	k.mu.Lock()
	defer k.mu.Unlock()
	return k.locks[key] != nil
}
