package server

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"time"
)

type stoppingKey struct{}

// stopping is closed when the server begins to stop. It is nil, and so never
// ready, where Serve does not run the handler.
func stopping(ctx context.Context) <-chan struct{} {
	done, _ := ctx.Value(stoppingKey{}).(<-chan struct{})
	return done
}

// graceTime is how long requests in flight may take to end when the server stops.
const graceTime = 10 * time.Second

// Serve answers on the listener until ctx ends, then stops gracefully: streams
// of events end at once, other requests get some seconds. It closes the
// listener, and returns nil after a stop that was asked for.
func Serve(ctx context.Context, l net.Listener, h http.Handler, log *slog.Logger) error {
	done := make(chan struct{})
	// No ReadTimeout: it would also end the context of a request that takes
	// longer, long after its body was read. The body's own limit is huma's.
	srv := &http.Server{
		Handler:           h,
		ReadHeaderTimeout: 10 * time.Second,
		WriteTimeout:      requestLimit + sendLimit,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    64 << 10,
		ErrorLog:          slog.NewLogLogger(log.Handler(), slog.LevelDebug),
		BaseContext: func(net.Listener) context.Context {
			return context.WithValue(context.WithoutCancel(ctx), stoppingKey{}, (<-chan struct{})(done))
		},
	}
	failed := make(chan error, 1)
	go func() { failed <- srv.Serve(l) }()
	select {
	case err := <-failed:
		return err
	case <-ctx.Done():
	}
	close(done)
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), graceTime)
	defer cancel()
	err := srv.Shutdown(grace)
	if err != nil {
		log.Warn("requests were cut off", "error", err)
		err = srv.Close()
	}
	if served := <-failed; !errors.Is(served, http.ErrServerClosed) {
		err = errors.Join(err, served)
	}
	return err
}
