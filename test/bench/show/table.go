package show

import (
	"fmt"
	"io"
	"strings"
	"text/tabwriter"
)

// Table is text in rows and columns; the first row is its head.
type Table [][]string

// Text writes the table in aligned columns.
func (t Table) Text(w io.Writer) {
	tw := tabwriter.NewWriter(w, 0, 0, 2, ' ', 0)
	for _, r := range t {
		_, _ = fmt.Fprintln(tw, strings.Join(r, "\t"))
	}
	_ = tw.Flush() // to memory or standard output
}

// Markdown writes the table as Markdown.
func (t Table) Markdown(w io.Writer) {
	for i, r := range t {
		_, _ = fmt.Fprintf(w, "| %s |\n", strings.Join(r, " | "))
		if i == 0 {
			_, _ = fmt.Fprintf(w, "|%s\n", strings.Repeat("---|", len(r)))
		}
	}
}
