// Command sandbox makes a whole world of backstay on one machine: hosts with a
// libvirt of their own, real guests, and a region that protects them. It is for
// trying backstay out and for its tests; nothing of the machine's own libvirt is
// touched.
package main

import (
	"context"
	"fmt"
	"os"
	"os/signal"
	"syscall"

	"github.com/backstay/backstay/internal/sandbox"
)

func main() {
	// `sandbox backstay …` is backstay itself, in which planned faults can happen.
	if len(os.Args) > 1 && os.Args[1] == "backstay" {
		os.Exit(backstayMain(os.Args[2:]))
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	// `sandbox carry FILE` is what carries connections between two regions.
	if len(os.Args) == 3 && os.Args[1] == "carry" {
		if err := sandbox.Carry(ctx, os.Args[2], os.Stdout); err != nil {
			fmt.Fprintln(os.Stderr, "sandbox carry:", err)
			os.Exit(1)
		}
		return
	}
	if err := command().ExecuteContext(ctx); err != nil {
		fmt.Fprintln(os.Stderr, "sandbox:", err)
		os.Exit(1)
	}
}
