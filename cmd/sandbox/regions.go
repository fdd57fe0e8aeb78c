package main

import (
	"fmt"
	"os"
	"strconv"
	"strings"

	"github.com/spf13/cobra"

	"github.com/backstay/backstay/internal/sandbox"
)

// upRegions brings two regions up.
func upRegions(c *cobra.Command, o sandbox.Options, names string) error {
	self, err := os.Executable()
	if err != nil {
		return err
	}
	o.Binary, o.LinkBinary = []string{self, "backstay"}, []string{self, "carry"}
	r, err := sandbox.UpRegions(c.Context(), o, strings.Split(names, ",")...)
	if err != nil {
		return err
	}
	out := c.OutOrStdout()
	for _, w := range r.Worlds {
		describe(out, w)
		fmt.Fprintf(out, "pair    listens at %s, the other region finds it at %s\n\n", w.Region.PairListen(), w.Region.PairAddress())
	}
	fmt.Fprintf(out, "link    %s link --dir %s slow 1000000|stall|cut|corrupt|mend; %s down --dir %s ends both\n", os.Args[0], r.Dir, os.Args[0], r.Dir)
	return nil
}

// linkCommand changes the link of two regions.
func linkCommand(dir *string) *cobra.Command {
	return &cobra.Command{
		Use: "link mend|cut|stall|corrupt|slow|pull [VALUE]", Short: "Make the link between two regions bad, or good again",
		Long: "mend          everything passes\n" +
			"cut [BYTES]   connections are reset, and so is each new one, after so many bytes\n" +
			"stall         nothing passes, nothing ends\n" +
			"corrupt [N]   one byte is changed on its way after so many bytes\n" +
			"slow RATE     so many bytes a second to either side; 0 for no bound\n" +
			"pull REGION   the region's wire is pulled out; plug REGION puts it back",
		Example: "  sandbox link --dir /tmp/two cut\n  sandbox link --dir /tmp/two slow 1000000\n  sandbox link --dir /tmp/two mend",
		Args:    cobra.RangeArgs(1, 2),
		RunE: func(c *cobra.Command, args []string) error {
			r, err := sandbox.OpenRegions(*dir)
			if err != nil {
				return err
			}
			value := ""
			if len(args) == 2 {
				value = args[1]
			}
			if err := r.SetLink(c.Context(), args[0], value); err != nil {
				return err
			}
			passed, err := r.Passed(c.Context())
			fmt.Fprintf(c.OutOrStdout(), "%d connections, %s bytes until now\n", passed.Connections, strconv.FormatInt(passed.Bytes, 10))
			return err
		},
	}
}
