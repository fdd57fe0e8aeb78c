package qemu

import (
	"context"
	"encoding/json"
	"fmt"
	"io"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/hypervisor"
)

// Allocated lists what a layer alone holds. The layer is opened without its
// backing file; "present" then tells a cluster that it holds, with data or with
// explicit zeros (a trimmed or zeroed cluster hides what lies below it and is a
// change too), from one that it does not. A raw image holds everything.
//
// The answer is read as it comes: the map of a large layer that was written in
// small steps has millions of lines.
func (im *Images) Allocated(ctx context.Context, image hypervisor.Image) ([]backstay.Range, error) {
	path, format := image.Location, image.Format
	if err := known(format); err != nil {
		return nil, fmt.Errorf("map layer %s: %w", path, err)
	}
	ctx, cancel := bounded(ctx, path)
	defer cancel()
	info, err := im.info(ctx, path, format)
	if err != nil {
		return nil, fmt.Errorf("map layer: %w", err)
	}
	if format != "qcow2" {
		return []backstay.Range{{Offset: 0, Length: info.VirtualSize}}, nil
	}
	p, r, w, err := im.startMap(ctx, image)
	if err != nil {
		return nil, fmt.Errorf("map layer %s: %w", path, err)
	}
	ended := make(chan error, 1)
	go func() {
		err := p.wait(ctx)
		_ = w.Close()
		ended <- err
	}()
	ranges, covered, err := readMap(r)
	_ = r.CloseWithError(io.ErrClosedPipe) // a tool that we stopped reading must not wait for us
	if toolErr := <-ended; toolErr != nil {
		err = toolErr // says why the map was cut short
	}
	if err == nil && covered != info.VirtualSize {
		err = fmt.Errorf("map covers %d of %d bytes", covered, info.VirtualSize)
	}
	if err != nil {
		return nil, fmt.Errorf("map layer %s: %w", path, err)
	}
	return ranges, nil
}

// startMap starts the tool; its answer is read from r, and w is closed when it
// has ended.
func (im *Images) startMap(ctx context.Context, image hypervisor.Image) (p *process, r *io.PipeReader, w *io.PipeWriter, err error) {
	n, err := alone(image)
	if err != nil {
		return nil, nil, nil, err
	}
	key, err := im.keyFile(ctx, image.Secret)
	if err != nil {
		return nil, nil, nil, err
	}
	args := []string{"map", "--output=json"}
	if key != nil {
		defer key.Close()
		args = append(args, secretArgs...)
	}
	r, w = io.Pipe()
	p, err = startWith(im.img, w, key, append(args, n.String())...)
	return p, r, w, err
}

// readMap decodes qemu-img's list. It returns the ranges that are present,
// neighbours joined, and how many bytes the list describes without a gap.
func readMap(r io.Reader) (ranges []backstay.Range, covered int64, err error) {
	d := json.NewDecoder(r)
	if start, err := d.Token(); err != nil || start != json.Delim('[') {
		return nil, 0, fmt.Errorf("read map: it is not a list (%v)", err)
	}
	for d.More() {
		var e struct {
			Start, Length int64
			Present       *bool
		}
		if err := d.Decode(&e); err != nil {
			return nil, 0, fmt.Errorf("read map: %w", err)
		}
		if e.Start != covered || e.Length <= 0 || e.Present == nil {
			return nil, 0, fmt.Errorf("read map: entry at %d of %d bytes is not one of a map without gaps", e.Start, e.Length)
		}
		covered += e.Length
		if !*e.Present {
			continue
		}
		if last := len(ranges) - 1; last >= 0 && ranges[last].End() == e.Start {
			ranges[last].Length += e.Length
		} else {
			ranges = append(ranges, backstay.Range{Offset: e.Start, Length: e.Length})
		}
	}
	_, err = d.Token() // the closing bracket: without it the list was cut short
	return ranges, covered, err
}
