package main

import (
	"context"
	"fmt"

	"github.com/backstay/backstay/test/bench/show"
)

// machine describes where and of what the figures are.
func machine(ctx context.Context, o options) map[string]string {
	m := show.Machine(ctx)
	m["image"] = fmt.Sprintf("%d GiB, generated", o.gib)
	if o.image != "" {
		m["image"] = "given by BENCH_IMAGE"
	}
	for name, version := range versions(ctx, o) {
		m["version "+name] = version
	}
	return m
}
