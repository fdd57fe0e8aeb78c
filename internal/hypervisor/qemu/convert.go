package qemu

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"slices"
	"strconv"

	"github.com/backstay/backstay/internal/hypervisor"
)

// Convert copies what an image shows into a new image, durably.
func (im *Images) Convert(ctx context.Context, c hypervisor.Conversion, progress func(done, total int64)) error {
	if err := known(c.To.Format); err != nil {
		return fmt.Errorf("copy image %s: %w", c.From.Location, err)
	}
	if err := known(c.From.Format); err != nil {
		return fmt.Errorf("copy image %s: %w", c.From.Location, err)
	}
	if c.From.Secret != "" && c.To.Secret != c.From.Secret {
		return fmt.Errorf("copy image %s: it is encrypted, and the copy would not be with the same secret", c.From.Location)
	}
	n, chain, err := im.whole(ctx, c.From)
	if err != nil {
		return fmt.Errorf("copy image: %w", err)
	}
	args := append([]string{"convert", "-p", "-O", c.To.Format}, rate(c.Throttle)...)
	if c.To.Secret != "" {
		args = append(args, "-o", encryption(c.To.Format))
	}
	args = append(args, n.String(), fileName(c.To.Location))
	return im.create(c.To.Location, func() error {
		return again(func() error {
			return im.runShowing(ctx, c.To.Secret, percent(chain[0].VirtualSize, progress), args...)
		})
	})
}

// slowest is what a tool does instead of waiting, in bytes per second: it has no
// way to be told later that it may go on.
const slowest = 1 << 20

// rate is the option that limits a tool of QEMU's.
func rate(t hypervisor.Throttle) []string {
	limit := t.Limit()
	if limit == 0 {
		return nil
	}
	return []string{"-r", strconv.FormatInt(max(limit, slowest), 10)}
}

// runShowing runs qemu-img with the key of a secret, if one is named, and with
// its standard output read by out.
func (im *Images) runShowing(ctx context.Context, secret string, out io.Writer, args ...string) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	key, err := im.keyFile(ctx, secret)
	if err != nil {
		return err
	}
	if key != nil {
		defer key.Close()
		args = slices.Concat(args[:1], secretArgs, args[1:])
	}
	p, err := startWith(im.img, out, key, args...)
	if err != nil {
		return err
	}
	return p.wait(ctx)
}

// percentReader turns what qemu-img prints of its progress, "    (12.50/100%)\r",
// into bytes.
type percentReader struct {
	total    int64
	progress func(done, total int64)
	line     []byte
}

func percent(total int64, progress func(done, total int64)) *percentReader {
	return &percentReader{total: total, progress: progress}
}

// Write never fails: it only looks.
func (r *percentReader) Write(p []byte) (int, error) {
	for _, c := range p {
		if c != '\r' && c != '\n' {
			if len(r.line) < 100 {
				r.line = append(r.line, c)
			}
			continue
		}
		r.show(r.line)
		r.line = r.line[:0]
	}
	return len(p), nil
}

func (r *percentReader) show(line []byte) {
	text, ok := bytes.CutPrefix(bytes.TrimSpace(line), []byte("("))
	text, _, more := bytes.Cut(text, []byte("/100%)"))
	if !ok || !more || r.progress == nil {
		return
	}
	if share, err := strconv.ParseFloat(string(text), 64); err == nil && share >= 0 && share <= 100 {
		r.progress(int64(share/100*float64(r.total)), r.total)
	}
}
