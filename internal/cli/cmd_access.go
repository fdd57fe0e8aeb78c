package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// auditPage is how many entries are asked for at once.
const auditPage = 1000

func (a *app) auditCommands() *cobra.Command {
	last := 100
	list := &cobra.Command{
		Use: "list", Short: "List what was asked for, by whom, and what came of it; oldest first",
		Example: "  backstay audit list\n  backstay audit list --last 0 -o json", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			entries, err := auditTail(ctx, c, last)
			if err != nil {
				return err
			}
			return a.emit(entries, func(w io.Writer) {
				row(w, "SEQ", "TIME", "USER", "ROLE", "ACTION", "TARGET", "OUTCOME", "JOB")
				for _, e := range entries {
					row(w, e.Seq, a.when(e.Time), e.User, e.Role, e.Action, e.Target, e.Outcome, e.Job)
				}
			})
		}),
	}
	list.Flags().IntVar(&last, "last", last, "only the last so many; 0 for all")
	return a.group("audit", "The log of all changes", "  backstay audit list", list)
}

// auditTail reads the whole log and keeps the last entries, or all if last is 0.
func auditTail(ctx context.Context, c *client.Client, last int) ([]backstay.AuditEntry, error) {
	entries, after := []backstay.AuditEntry{}, int64(0)
	for {
		page, err := c.Audit(ctx, after, auditPage)
		if err != nil {
			return nil, err
		}
		entries = append(entries, page...)
		if last > 0 && len(entries) > last {
			entries = entries[len(entries)-last:]
		}
		if len(page) < auditPage {
			return entries, nil
		}
		after = page[len(page)-1].Seq
	}
}

// rights are what a token may do.
func rights(t backstay.Token) string {
	text := string(t.Role)
	if t.Files {
		text += ", files"
	}
	if t.Point != "" {
		text += ", of point " + string(t.Point) + " alone"
	}
	return text
}

func (a *app) tokenCreateCommand() *cobra.Command {
	var r api.CreateTokenRequest
	expires := duration(0)
	c := &cobra.Command{
		Use: "create NAME --role R | --point POINT", Short: "Make a token and print its secret once",
		Example: "  backstay token create ci --role operator\n  backstay token create helpdesk --role reader --files\n  backstay token create desk-4711 --point web01@latest --expires 1h --region east",
		Long: "Make a token and print its secret once. No role gives access to the files in\nrecovery points: --files does, since whoever has it reads what guests hold.\n\n" +
			"With --point the token is bound to that recovery point, in the region that makes\nit: it looks at the point, restores it beside what is there (create-vm, disks,\nfiles), sees and cancels the jobs that it started, and can do nothing else. It\nexpires: after an hour unless --expires says otherwise.",
		Args: exactly("NAME"),
	}
	c.RunE = a.call(func(ctx context.Context, cl *client.Client, args []string) error {
		r.Name, r.Expires = args[0], backstay.Duration(expires)
		if r.Role == "" && r.Point == "" {
			return backstay.Errorf(backstay.CodeUsage, "nothing says what the token may do").Becausef("there is neither --role nor --point").Do("say --role reader, operator or owner, or --point POINT")
		}
		if r.Point != "" && r.Role == "" {
			r.Role, r.Files = backstay.Operator, true
		}
		if r.Point != "" && !c.Flags().Changed("expires") {
			r.Expires = backstay.Duration(time.Hour)
		}
		out, err := cl.CreateToken(ctx, r)
		if err != nil {
			return err
		}
		return a.emit(out, func(w io.Writer) {
			fmt.Fprintf(w, "token %s (%s), shown this once:\n\n    %s\n\n", out.Token.Name, rights(out.Token), out.Secret)
			if out.Token.Expires != nil {
				fmt.Fprintf(w, "It counts until %s.\n", a.whenPtr(out.Token.Expires))
			}
			fmt.Fprintln(w, "Give it as --token, BACKSTAY_TOKEN, or in a client.yaml of mode 0600.")
		})
	})
	f := c.Flags()
	f.Var(oneOf(&r.Role, backstay.Reader, backstay.Operator, backstay.Owner), "role", "what it may do; with --point operator and files unless told otherwise")
	f.BoolVar(&r.Files, "files", false, "it may also open recovery points and take files out of them")
	f.StringVar(&r.Point, "point", "", "the only recovery `POINT` that it opens")
	f.Var(&expires, "expires", "how long it counts; until it is deleted unless told otherwise")
	return c
}

func (a *app) tokenCommands() *cobra.Command {
	create := a.tokenCreateCommand()
	list := &cobra.Command{
		Use: "list", Short: "List the tokens, without their secrets", Example: "  backstay token list", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			tokens, err := c.Tokens(ctx)
			if err != nil {
				return err
			}
			return a.emit(tokens, func(w io.Writer) {
				row(w, "TOKEN", "ROLE", "FILES", "POINT", "CREATED", "EXPIRES", "ID")
				for _, t := range tokens {
					until := a.whenPtr(t.Expires)
					if t.Expired(a.Now()) {
						until += " (expired)"
					}
					row(w, t.Name, t.Role, yesNo(t.Files), t.Point, a.when(t.Created), until, t.ID)
				}
			})
		}),
	}
	remove := &cobra.Command{
		Use: "delete TOKEN", Short: "Delete a token by its name or id", Example: "  backstay token delete ci --yes", Args: exactly("TOKEN"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if err := a.confirm("delete the token %s; whoever uses it is shut out at once", args[0]); err != nil {
				return err
			}
			if err := c.DeleteToken(ctx, args[0]); err != nil {
				return err
			}
			a.note("token %s is deleted", args[0])
			return nil
		}),
	}
	return a.group("token", "Keys to the API", "  backstay token create ci --role operator\n  backstay token list", create, list, a.yesFlag(remove))
}
