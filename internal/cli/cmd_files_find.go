package cli

import (
	"context"
	"fmt"
	"io"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) filesFindCommand() *cobra.Command {
	ignoreCase, limit := false, 100
	c := &cobra.Command{
		Use: "find VM GLOB", Short: "Find files over all recovery points of a VM, with their versions",
		Long: "Find files over all recovery points of a VM, with their versions, in the list of files that\nis made after each backup into a vault.\n\n" +
			"GLOB is matched with the whole path, in its volume or as the guest sees it, if it holds a /, and with the name if not.\n" +
			"* is anything but /, ** anything, ? one character, [a-z] one of some, [!a-z] one of no such. Without any\n" +
			"of these it is a part of what is looked for. Quote it, so that the shell leaves it alone.",
		Example:           "  backstay files find web01 nginx.conf\n  backstay files find web01 '*.conf' -i\n  backstay files find web01 '/etc/**/*.conf' --limit 1000 -o json",
		Args:              exactly("VM", "GLOB"),
		ValidArgsFunction: a.completeVMs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			found, err := c.FindFiles(ctx, args[0], args[1], ignoreCase, limit)
			if err != nil {
				return err
			}
			return a.emit(found, func(w io.Writer) { a.foundTable(w, found) })
		}),
	}
	c.Flags().BoolVarP(&ignoreCase, "ignore-case", "i", false, "upper and lower case are the same")
	c.Flags().IntVar(&limit, "limit", limit, "most paths, up to 10000")
	return c
}

// foundTable shows each path with its versions, newest first, and how to get it.
func (a *app) foundTable(w io.Writer, found api.FoundFiles) {
	if len(found.Files) == 0 {
		fmt.Fprintln(w, "no such file is in the listed points")
	}
	for i, f := range found.Files {
		if i > 0 {
			fmt.Fprintln(w)
		}
		fmt.Fprintf(w, "%s:%s  (%s)\n", f.Volume, f.Path, f.Type)
		for _, v := range f.Versions {
			hash := ""
			if v.SHA256 != "" {
				hash = "sha256 " + v.SHA256[:min(len(v.SHA256), 12)]
			}
			row(w, "  "+a.when(v.ModTime), size(v.Size), hash, pointSpan(v))
		}
		fmt.Fprintf(w, "  %s\n", a.again("backstay files get %s %s --to .", f.Versions[0].Last, quoted(string(f.Volume)+":"+f.Path.String())))
	}
	if found.More {
		a.note("there are more; --limit shows more of them")
	}
	if n := len(found.Without); n > 0 {
		a.note("%d point(s) were not searched, since their files are not listed: %s", n, someOf(found.Without, 5))
	}
}

// pointSpan says in which points a version is.
func pointSpan(v backstay.FileVersion) string {
	if v.Points == 1 {
		return "in " + string(v.Last)
	}
	return fmt.Sprintf("in %d points, %s to %s", v.Points, v.First, v.Last)
}

// someOf names the first few of many.
func someOf[T ~string](all []T, limit int) string {
	var names []string
	for _, one := range all[:min(limit, len(all))] {
		names = append(names, string(one))
	}
	text := strings.Join(names, ", ")
	if n := len(all) - limit; n > 0 {
		text += fmt.Sprintf(" and %d more", n)
	}
	return text
}

// quoted is a word as a shell takes it.
func quoted(word string) string {
	plain := strings.Trim(word, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789/:._-+@%,") == ""
	if plain && word != "" {
		return word
	}
	return "'" + strings.ReplaceAll(word, "'", `'\''`) + "'"
}

func (a *app) pointDiffCommand() *cobra.Command {
	limit := 50
	c := &cobra.Command{
		Use: "diff POINT POINT", Short: "Show what changed between two recovery points of a VM",
		Long: "Show what changed between two recovery points of a VM, from the older to the newer: how much of each\n" +
			"disk differs, and which files were added, changed and removed. Files are compared by the lists that are made\n" +
			"after backups; where a point has none, both points are opened and listed, which takes longer.",
		Example:           "  backstay point diff web01@2026-11-22T10:00:00Z web01@latest\n  backstay point diff 01K9ZQ 01K9ZX --limit 1000 -o json",
		Args:              exactly("POINT", "POINT"),
		ValidArgsFunction: a.completePoints(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			d, err := c.DiffPoints(ctx, args[0], args[1], limit)
			if err != nil {
				return err
			}
			return a.emit(d, func(w io.Writer) { a.diffTable(w, d) })
		}),
	}
	c.Flags().IntVar(&limit, "limit", limit, "most files that are named, up to 100000")
	return c
}

func (a *app) diffTable(w io.Writer, d backstay.PointDiff) {
	fmt.Fprintf(w, "from %s to %s\n\n", d.Before, d.After)
	row(w, "DISK", "CHANGED", "NOTE")
	for _, disk := range d.Disks {
		row(w, disk.Target, size(disk.Bytes), disk.Note)
	}
	fmt.Fprintln(w)
	if len(d.Files) > 0 {
		row(w, "FILE", "TYPE", "BEFORE", "AFTER", "CHANGE")
	} else if len(d.Notes) == 0 {
		fmt.Fprintln(w, "no file differs")
	}
	for _, f := range d.Files {
		before, after := size(f.Before), size(f.After)
		if f.Change == backstay.FileAdded {
			before = ""
		}
		if f.Change == backstay.FileRemoved {
			after = ""
		}
		row(w, fmt.Sprintf("%s:%s", f.Volume, f.Path), f.Type, before, after, f.Change)
	}
	if d.More > 0 {
		fmt.Fprintf(w, "and %d more\n", d.More)
	}
	for _, n := range d.Notes {
		a.note("%s", printable(n))
	}
}
