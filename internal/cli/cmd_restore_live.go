package cli

import (
	"context"
	"fmt"
	"io"
	"slices"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/client"
	"github.com/spf13/cobra"
)

// finishCommand copies the rest of a live restore without regard for the guest.
func (a *app) finishCommand() *cobra.Command {
	c := a.jobCommand("finish JOB", "Copy the rest of a live restore as fast as it can be", "  backstay restore finish 01K9ZQ4T5V0000000000000000",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error {
			job, err := c.FinishRestore(ctx, id)
			if err != nil {
				return err
			}
			return a.started(ctx, c, job)
		})
	c.Long = "Copy the rest of a live restore as fast as it can be, whatever the guest feels,\nand wait until the VM stands on its own disks."
	c.Args = exactly("JOB")
	return a.noWaitFlag(c)
}

// abandonCommand throws the VM of a live restore away.
func (a *app) abandonCommand() *cobra.Command {
	c := a.jobCommand("abandon JOB", "Throw away the VM of a live restore that is not complete", "  backstay restore abandon 01K9ZQ4T5V0000000000000000 --yes",
		func(ctx context.Context, c *client.Client, id backstay.JobID) error {
			job, err := c.Job(ctx, id)
			if err != nil {
				return err
			}
			if !slices.ContainsFunc(job.Tasks, func(t backstay.Task) bool { return t.Name == "copy" }) || job.State == backstay.JobSucceeded || job.State == backstay.JobWarning {
				_, err := c.AbandonRestore(ctx, id) // refuses, with the reason
				return err
			}
			if err := a.confirm("throw away the VM %s with all that its guest wrote since it was started", job.Target); err != nil {
				return err
			}
			if job, err = c.AbandonRestore(ctx, id); err != nil {
				return err
			}
			if job, err = c.Follow(ctx, job.ID, nil); err != nil {
				return err
			}
			if job.State != backstay.JobCancelled && job.State != backstay.JobFailed {
				return backstay.Errorf(backstay.CodeConflict, "the VM %s was not thrown away", job.Target).
					Becausef("job %s ended as %s before", job.ID, job.State).Do("remove it as any other VM, if you mean it")
			}
			return a.emit(job, func(w io.Writer) { fmt.Fprintf(w, "%s is gone; nothing of job %s is left\n", job.Target, job.ID) })
		})
	c.Long = "Throw away the VM of a live restore whose disks are not complete yet: the VM, its\ndisks with all that its guest wrote, and the export. The point stays as it is."
	c.Args = exactly("JOB")
	return a.yesFlag(c)
}
