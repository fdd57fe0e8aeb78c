// Command codespage writes the page of all error codes from the table of them. It
// is run by go generate and is no part of the product.
package main

import (
	"fmt"
	"os"
	"slices"
	"strings"

	backstay "github.com/backstay/backstay"
)

func main() {
	if len(os.Args) != 2 {
		fmt.Fprintln(os.Stderr, "codespage: give the file to write")
		os.Exit(2)
	}
	if err := os.WriteFile(os.Args[1], []byte(page()), 0o644); err != nil {
		fmt.Fprintln(os.Stderr, "codespage:", err)
		os.Exit(1)
	}
}

const head = `# Codes

Every failure has a code, which does not change between releases: it is what a script looks at. The command line prints
it after ` + "`error:`" + `, and with ` + "`-o json`" + ` it is ` + "`error.code`" + `; a job that failed has it in its own ` + "`error`" + `. The cause says
what it was this time, and the action what to do; an action below is the one that is given where the place that
reports the failure knows nothing better.

Written by ` + "`go generate`" + ` from ` + "`codes.go`" + ` and ` + "`codes_means.go`" + `.
`

// kinds are in the order of their exit codes, each with what it says.
var kinds = []struct {
	kind backstay.Kind
	says string
}{
	{backstay.KindFailed, "it was tried and went wrong"},
	{backstay.KindInternal, "a fault of backstay"},
	{backstay.KindUsage, "the request itself is wrong"},
	{backstay.KindNotFound, "there is no such thing"},
	{backstay.KindRefused, "a check before anything is touched, or a conflict"},
	{backstay.KindNotAllowed, "not allowed"},
	{backstay.KindDamaged, "stored data is not what was written"},
	{backstay.KindUnreachable, "a server, a host or a store does not answer"},
}

func page() string {
	var b strings.Builder
	b.WriteString(head)
	all := backstay.Codes()
	for _, k := range kinds {
		var names []backstay.Code
		for code, e := range all {
			if e.Kind == k.kind {
				names = append(names, code)
			}
		}
		slices.Sort(names)
		fmt.Fprintf(&b, "\n## Exit code %d, kind `%s`: %s\n\n| code | what it means | what to do |\n|---|---|---|\n", k.kind.ExitCode(), k.kind, k.says)
		for _, code := range names {
			fmt.Fprintf(&b, "| `%s` | %s | %s |\n", code, cell(backstay.Meaning(code)), cell(all[code].Action))
		}
	}
	return b.String()
}

// cell keeps a bar from ending the cell.
func cell(s string) string { return strings.ReplaceAll(s, "|", `\|`) }
