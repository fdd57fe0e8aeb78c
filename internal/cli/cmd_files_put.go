package cli

import (
	"bufio"
	"context"
	"fmt"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) filesPutCommand() *cobra.Command {
	var o opening
	var r api.PutRequest
	conflict := backstay.ConflictAsk
	c := &cobra.Command{
		Use: "put POINT PATH...", Short: "Put files and folders of a recovery point into a running guest",
		Long: "Put files and folders of a recovery point into a running guest, through its guest agent.\n\n" +
			"Each file is written beside its place, verified there, and gets the owner, mode, times and\n" +
			"attributes that it had; when all are ready they take their places. Where that fails, or is\n" +
			"cancelled, the guest is as it was. Without --to each file goes where it was.\n\n" +
			"If a file is there already nothing is put, unless --on-conflict says what is to become of it;\n" +
			"on a terminal you are asked.",
		Example: "  backstay files put web01 /etc/nginx --vm web01 --on-conflict overwrite\n" +
			"  backstay files put web01@2026-05-01T03:00:00Z /srv/data/report.ods --vm web01 --to /root/restored",
		ValidArgsFunction: a.completePointsOrVMs(),
		Args:              atLeast(2, "POINT and one or more paths"),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			if r.VM == "" {
				return backstay.Errorf(backstay.CodeUsage, "--vm is missing").Becausef("it names the running guest that gets the files").Do("say --vm VM")
			}
			r.Paths, r.Conflict = args[1:], conflict
			session, err := a.open(ctx, c, args[0], o)
			if err != nil {
				return err
			}
			for {
				var job backstay.Job
				err = a.withKeys(ctx, remote{c, session.ID}, &session, func() (err error) {
					job, err = c.PutFiles(ctx, session.ID, r)
					return err
				})
				if err != nil {
					return err
				}
				err = a.started(ctx, c, job)
				if !backstay.IsCode(err, backstay.CodeFileExists) || r.Conflict != backstay.ConflictAsk || !a.IsTerminal(a.Stdin) {
					return err
				}
				if r.Conflict, err = a.askConflict(backstay.AsError(err).Message); err != nil {
					return err
				}
			}
		}),
	}
	c.Flags().StringVar(&r.VM, "vm", "", "the running `VM` that gets the files")
	c.Flags().StringVar(&r.To, "to", "", "`DIR` in the guest; each file goes where it was unless told otherwise")
	c.Flags().Var(oneOf(&conflict, backstay.ConflictAsk, backstay.ConflictOverwrite, backstay.ConflictRename, backstay.ConflictSkip), "on-conflict", "what becomes of a file that is there already")
	_ = c.RegisterFlagCompletionFunc("vm", a.completeVMs())
	return o.flags(a.noWaitFlag(c))
}

// askConflict asks what is to become of files that are there already.
func (a *app) askConflict(what string) (backstay.Conflict, error) {
	fmt.Fprintf(a.Stderr, "%s. Nothing was put. Type overwrite, rename or skip to go on, for all such files: ", oneLine(what))
	answer, err := bufio.NewReader(a.Stdin).ReadString('\n')
	switch c := backstay.Conflict(strings.TrimSpace(answer)); c {
	case backstay.ConflictOverwrite, backstay.ConflictRename, backstay.ConflictSkip:
		return c, nil
	}
	e := backstay.Errorf(backstay.CodeCancelled, "nothing was put").Becausef("the answer was none of the three")
	if err != nil {
		e = e.Because(err)
	}
	return "", e.Do("say --on-conflict overwrite, rename or skip")
}
