package rpc

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// Serve is mover.Streams'.
func (c *Client) Serve(ctx context.Context, r mover.ServeRequest) (mover.Served, error) {
	return call[mover.Served, none](ctx, c, "Serve", r, nil)
}

// Exchange is mover.Streams'.
func (c *Client) Exchange(ctx context.Context, r mover.ExchangeRequest) (mover.Exchanged, error) {
	return call[mover.Exchanged, none](ctx, c, "Exchange", r, nil)
}

// EndStream is mover.Streams'.
func (c *Client) EndStream(ctx context.Context, job backstay.JobID) error {
	_, err := call[none, none](ctx, c, "EndStream", job, nil)
	return err
}

func registerStreams(s *side, m mover.Mover) {
	handle(s, "Serve", func(ctx context.Context, r mover.ServeRequest, _ func(none)) (mover.Served, error) {
		return m.Serve(ctx, r)
	})
	handle(s, "Exchange", func(ctx context.Context, r mover.ExchangeRequest, _ func(none)) (mover.Exchanged, error) {
		return m.Exchange(ctx, r)
	})
	handle(s, "EndStream", func(ctx context.Context, job backstay.JobID, _ func(none)) (none, error) {
		return none{}, m.EndStream(ctx, job)
	})
}
