package cli

import (
	"context"
	"fmt"
	"io"
	"time"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

func (a *app) jobCommands() *cobra.Command {
	show := a.jobCommand("show ID", "Show one job", "  backstay job show 01K9ZQ4T5V0000000000000000 -o json",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error {
			job, err := c.Job(ctx, id)
			if err != nil {
				return err
			}
			return a.emit(job, func(w io.Writer) { a.jobTable(w, job) })
		})
	watch := a.jobCommand("watch ID", "Follow a job to its end", "  backstay job watch 01K9ZQ4T5V0000000000000000",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error { return a.wait(ctx, c, id) })
	cancel := a.jobCommand("cancel ID", "Cancel a job; it undoes what it did", "  backstay job cancel 01K9ZQ4T5V0000000000000000",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error {
			job, err := c.CancelJob(ctx, id)
			if err != nil {
				return err
			}
			return a.emit(job, func(w io.Writer) { fmt.Fprintf(w, "job %s is %s\n", job.ID, job.State) })
		})
	retry := a.jobCommand("retry ID", "Run a job that ended again, as a new job", "  backstay job retry 01K9ZQ4T5V0000000000000000",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error {
			job, err := c.RetryJob(ctx, id)
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		})
	return a.group("job", "Runs of backup, restore, verify and expire", "  backstay job list\n  backstay job watch 01K9ZQ4T5V0000000000000000",
		a.jobListCommand(), show, watch, cancel, a.noWaitFlag(retry))
}

func (a *app) jobCommand(use, short, example string, fn func(context.Context, *client.Client, backstay.JobID) error) *cobra.Command {
	return &cobra.Command{
		Use: use, Short: short, Example: example, Args: exactly("ID"), ValidArgsFunction: a.completeJobs(),
		RunE: a.call(func(ctx context.Context, c *client.Client, args []string) error {
			return fn(ctx, c, backstay.JobID(args[0]))
		}),
	}
}

func (a *app) jobListCommand() *cobra.Command {
	var states []string
	limit := 50
	c := &cobra.Command{
		Use: "list", Short: "List jobs, newest first", Example: "  backstay job list\n  backstay job list --state running --state queued", Args: exactly(),
		RunE: a.call(func(ctx context.Context, c *client.Client, _ []string) error {
			var wanted []backstay.JobState
			for _, s := range states {
				wanted = append(wanted, backstay.JobState(s))
			}
			jobs, err := c.Jobs(ctx, limit, wanted...)
			if err != nil {
				return err
			}
			return a.emit(jobs, func(w io.Writer) {
				row(w, "JOB", "KIND", "TARGET", "STATE", "DONE", "CREATED", "TOOK")
				for _, j := range jobs {
					row(w, j.ID, j.Kind, j.Target, j.State, fmt.Sprintf("%.0f %%", j.Percent), a.when(j.Created), took(a, j))
				}
			})
		}),
	}
	c.Flags().StringSliceVar(&states, "state", nil, "only jobs in this state; repeat for more")
	c.Flags().IntVar(&limit, "limit", limit, "at most so many")
	return c
}

func took(a *app, j backstay.Job) string {
	switch {
	case j.Started == nil:
		return ""
	case j.Ended == nil:
		return span(max(0, a.Now().Sub(*j.Started)))
	}
	return span(j.Ended.Sub(*j.Started))
}

func (a *app) jobTable(w io.Writer, j backstay.Job) {
	row(w, "job", j.ID)
	row(w, "kind", j.Kind)
	row(w, "target", j.Target)
	row(w, "point", j.Point)
	row(w, "state", because(string(j.State), j.Waiting))
	row(w, "by", j.User)
	row(w, "created", a.when(j.Created))
	row(w, "started", a.whenPtr(j.Started))
	row(w, "ended", a.whenPtr(j.Ended))
	row(w, "took", took(a, j))
	row(w, "done", fmt.Sprintf("%.0f %%", j.Percent))
	row(w, "bytes", amount(j))
	if j.Retries != "" {
		row(w, "retries", j.Retries)
	}
	if j.Error != nil {
		row(w, "error", fmt.Sprintf("%s: %s", j.Error.Code, oneLine(j.Error.Message)))
		row(w, "cause", oneLine(j.Error.Cause))
		row(w, "action", oneLine(j.Error.Action))
	}
	for _, warning := range j.Warnings {
		row(w, "warning", oneLine(warning))
	}
	if len(j.Tasks) > 0 {
		row(w, "")
		row(w, "TASK", "STATE", "DONE", "TOOK", "DETAIL")
		for _, t := range j.Tasks {
			length := ""
			if t.Started != nil && t.Ended != nil {
				length = t.Ended.Sub(*t.Started).Round(time.Millisecond).String()
			}
			row(w, t.Name, t.State, fmt.Sprintf("%.0f %%", t.Percent), length, oneLine(t.Detail))
		}
	}
	if j.State.Ended() {
		row(w, "")
		a.summary(w, j)
	}
}
