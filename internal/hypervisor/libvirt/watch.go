package libvirt

import (
	"context"
	"sync"

	"github.com/digitalocean/go-libvirt"

	"github.com/backstay/backstay/internal/hypervisor"
)

// watcher collects events for one Watch. An event that waits already is not
// added again, so that a slow reader costs no more than one entry for each VM.
type watcher struct {
	mu    sync.Mutex
	queue []hypervisor.Event        // guarded by mu
	has   map[hypervisor.Event]bool // guarded by mu
	more  chan struct{}             // holds one
}

func (w *watcher) add(e hypervisor.Event) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if !w.has[e] {
		w.has[e] = true
		w.queue = append(w.queue, e)
	}
	select {
	case w.more <- struct{}{}:
	default:
	}
}

func (w *watcher) take() []hypervisor.Event {
	w.mu.Lock()
	defer w.mu.Unlock()
	q := w.queue
	w.queue = nil
	clear(w.has)
	return q
}

// Watch calls fn for each event, first with EventUp if libvirt is connected.
func (h *Host) Watch(ctx context.Context, fn func(hypervisor.Event)) error {
	w := &watcher{has: map[hypervisor.Event]bool{}, more: make(chan struct{}, 1)}
	h.mu.Lock()
	h.watchers[w] = true
	if h.current != nil {
		w.add(hypervisor.Event{Kind: hypervisor.EventUp})
	}
	h.mu.Unlock()
	defer func() {
		h.mu.Lock()
		delete(h.watchers, w)
		h.mu.Unlock()
	}()
	for {
		select {
		case <-w.more:
			for _, e := range w.take() {
				fn(e)
			}
		case <-ctx.Done():
			return ctx.Err()
		case <-h.ctx.Done():
			return hypervisor.ErrAway
		}
	}
}

// emit tells every watcher. The caller holds mu.
func (h *Host) emit(e hypervisor.Event) {
	for w := range h.watchers {
		w.add(e)
	}
}

// subscribe asks for events of all VMs and drains their channels until the
// connection ends. The subscription is never cancelled before that: go-libvirt
// then stops reading replies while an event waits.
func (h *Host) subscribe(c *connection) error {
	for _, id := range []libvirt.DomainEventID{libvirt.DomainEventIDLifecycle, libvirt.DomainEventIDAgentLifecycle} {
		events, err := c.l.SubscribeEvents(context.Background(), id, nil)
		if err != nil {
			return err
		}
		h.work.Go(func() {
			for e := range events {
				h.mu.Lock()
				switch e := e.(type) {
				case *libvirt.DomainEventCallbackLifecycleMsg:
					h.emit(hypervisor.Event{Kind: hypervisor.EventChanged, VM: vmID(e.Msg.Dom.UUID)})
				case *libvirt.DomainEventCallbackAgentLifecycleMsg:
					h.emit(hypervisor.Event{Kind: hypervisor.EventAgent, VM: vmID(e.Dom.UUID)})
				}
				h.mu.Unlock()
			}
		})
	}
	return nil
}
