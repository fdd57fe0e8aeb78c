package cli

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/spf13/cobra"
)

// manCommand writes the man pages, one for each command, from the same tree
// that parses the command line.
func (a *app) manCommand() *cobra.Command {
	return &cobra.Command{
		Use: "man DIR", Short: "Write the man pages, one file for each command", Args: exactly("DIR"),
		Example: "  backstay man /usr/local/share/man/man1",
		RunE: a.run(func(_ context.Context, args []string) error {
			if err := os.MkdirAll(args[0], 0o755); err != nil {
				return backstay.Errorf(backstay.CodeUsage, "the folder %s cannot be made", args[0]).Because(err).Do("name another folder")
			}
			return writePages(a.root, args[0])
		}),
	}
}

func writePages(c *cobra.Command, dir string) error {
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	if err := os.WriteFile(filepath.Join(dir, name+".1"), []byte(manPage(c)), 0o644); err != nil {
		return backstay.Errorf(backstay.CodeUsage, "the man page of `%s` cannot be written", c.CommandPath()).Because(err).Do("name another folder")
	}
	for _, child := range c.Commands() {
		if child.Hidden {
			continue
		}
		if err := writePages(child, dir); err != nil {
			return err
		}
	}
	return nil
}

// manPage is the page of one command, in the language of man(7).
func manPage(c *cobra.Command) string {
	var b strings.Builder
	name := strings.ReplaceAll(c.CommandPath(), " ", "-")
	about := c.Long
	if about == "" {
		about = c.Short
	}
	fmt.Fprintf(&b, ".TH %s 1 \"\" \"%s\"\n", strings.ToUpper(name), c.Root().Name())
	fmt.Fprintf(&b, ".SH NAME\n%s \\- %s\n", roff(name), roff(c.Short))
	fmt.Fprintf(&b, ".SH SYNOPSIS\n.B %s\n", roff(c.UseLine()))
	fmt.Fprintf(&b, ".SH DESCRIPTION\n%s\n", roff(about))
	for _, part := range [][2]string{{"OPTIONS", c.NonInheritedFlags().FlagUsages()}, {"GLOBAL OPTIONS", c.InheritedFlags().FlagUsages()}} {
		if part[1] != "" {
			fmt.Fprintf(&b, ".SH %s\n.nf\n%s.fi\n", part[0], roff(part[1]))
		}
	}
	if c.Example != "" {
		fmt.Fprintf(&b, ".SH EXAMPLES\n.nf\n%s\n.fi\n", roff(c.Example))
	}
	var others []string
	if c.HasParent() {
		others = append(others, c.Parent().CommandPath())
	}
	for _, child := range c.Commands() {
		if !child.Hidden {
			others = append(others, child.CommandPath())
		}
	}
	if len(others) > 0 {
		for i := range others {
			others[i] = fmt.Sprintf("\\fB%s\\fR(1)", roff(strings.ReplaceAll(others[i], " ", "-")))
		}
		fmt.Fprintf(&b, ".SH SEE ALSO\n%s\n", strings.Join(others, ", "))
	}
	return b.String()
}

// roff writes text so that nothing in it is a request or an escape.
func roff(s string) string {
	s = strings.NewReplacer(`\`, `\e`, `-`, `\-`).Replace(s)
	lines := strings.Split(s, "\n")
	for i, line := range lines {
		if strings.HasPrefix(line, ".") || strings.HasPrefix(line, "'") {
			lines[i] = `\&` + line
		}
	}
	return strings.Join(lines, "\n")
}
