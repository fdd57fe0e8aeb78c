package filemount

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
)

// How content is fetched. One request costs as much as some hundred kilobytes of
// content, so what is read in order is fetched in ever larger pieces ahead of the
// reader, and what is read here and there in small ones.
const (
	pageBytes  = 128 << 10
	mostAhead  = 64  // pages of one request: 8 MiB
	mostCached = 192 // pages of one reader: 24 MiB
)

// pages reads content of a known size through a cache of pages. It is an io.ReaderAt
// and may be used concurrently.
type pages struct {
	read func(ctx context.Context, offset, length int64) (io.ReadCloser, error)
	size int64
	life context.Context // of the fetches, which outlive whoever asked first

	mu     sync.Mutex
	cache  map[int64]*page // guarded by mu
	age    []int64         // guarded by mu: of cache, oldest first
	last   int64           // guarded by mu: the last page that was asked for
	window int64           // guarded by mu: pages of the next fetch
	ahead  int64           // guarded by mu: the page behind the last fetch
}

// readOf reads one thing of a source.
func readOf(s Source, what What) func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
	return func(ctx context.Context, offset, length int64) (io.ReadCloser, error) {
		return s.Read(ctx, what, offset, length)
	}
}

// page is one page; data and err are set when done is closed.
type page struct {
	done chan struct{}
	data []byte
	err  error
}

func newPages(life context.Context, size int64, read func(ctx context.Context, offset, length int64) (io.ReadCloser, error)) *pages {
	return &pages{read: read, size: size, life: life, cache: map[int64]*page{}, last: -2, window: 1, ahead: -1}
}

// ReadAt implements io.ReaderAt.
func (p *pages) ReadAt(b []byte, offset int64) (int, error) { return p.readAt(p.life, b, offset) }

// readAt waits no longer than ctx.
func (p *pages) readAt(ctx context.Context, b []byte, offset int64) (n int, err error) {
	for n < len(b) {
		at := offset + int64(n)
		if at >= p.size {
			return n, io.EOF
		}
		pg := p.page(at / pageBytes)
		select {
		case <-pg.done:
		case <-ctx.Done():
			return n, context.Cause(ctx)
		}
		if pg.err != nil {
			return n, pg.err
		}
		n += copy(b[n:], pg.data[at%pageBytes:])
	}
	return n, nil
}

// page returns a page that is there or on its way, and sees to it that those behind
// it come too if the reader goes forward.
func (p *pages) page(n int64) *page {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case n == p.last: // the rest of a page
	case n > p.last && n <= p.last+4: // forward; the kernel mixes what it asks for a little
		p.window = min(2*p.window, mostAhead)
		p.last = n
	case n < p.last && n >= p.last-4:
	default:
		p.window, p.last = 1, n
	}
	pg := p.cache[n]
	if pg == nil {
		pg = p.fetch(n, p.window)
	} else if p.window > 1 && n+p.window/2 >= p.ahead && p.ahead > n && p.ahead*pageBytes < p.size && p.cache[p.ahead] == nil {
		p.fetch(p.ahead, p.window)
	}
	return pg
}

// fetch begins to fetch pages from n on, as far as they are wanted and not there.
// The caller holds mu.
func (p *pages) fetch(n, count int64) *page {
	count = min(count, (p.size+pageBytes-1)/pageBytes-n)
	var all []*page
	for i := n; i < n+count && p.cache[i] == nil; i++ {
		pg := &page{done: make(chan struct{})}
		p.cache[i] = pg
		p.age = append(p.age, i)
		all = append(all, pg)
	}
	p.ahead = n + int64(len(all))
	for len(p.age) > mostCached {
		delete(p.cache, p.age[0])
		p.age = p.age[1:]
	}
	go p.fill(n, all)
	return all[0]
}

// fill reads pages as they come. Those that failed are forgotten, so that they are
// asked for again.
func (p *pages) fill(n int64, all []*page) {
	offset := n * pageBytes
	length := min(int64(len(all))*pageBytes, p.size-offset)
	body, err := p.read(p.life, offset, length)
	for i, pg := range all {
		if err == nil {
			data := make([]byte, min(pageBytes, length-int64(i)*pageBytes))
			if _, err = io.ReadFull(body, data); err == nil {
				pg.data = data
			}
		}
		if err != nil {
			if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
				err = fmt.Errorf("read %d bytes at %d: %w", length, offset, io.ErrUnexpectedEOF)
			}
			pg.err = err
			p.forget(n+int64(i), pg)
		}
		close(pg.done)
	}
	if body != nil {
		_ = body.Close()
	}
}

func (p *pages) forget(n int64, pg *page) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.cache[n] == pg {
		delete(p.cache, n)
	}
}
