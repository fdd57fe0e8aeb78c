package server

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// copyTask is the task of a live restore in which its VM runs already.
const copyTask = "copy"

func (s *server) registerLives() {
	add(s, "finishRestore", s.finishRestore)
	add(s, "abandonRestore", s.abandonRestore)
}

// liveJob returns a job that is a live restore.
func (s *server) liveJob(ctx context.Context, in *jobInput) (backstay.Job, error) {
	c := callOf(ctx)
	c.target, c.job = in.Job, in.id()
	job, err := s.job(ctx, in.id())
	if err != nil {
		return job, err
	}
	c.target = job.Target
	if !isLive(job) {
		return job, backstay.Errorf(backstay.CodeUsage, "the job %s is no live restore", job.ID).
			Becausef("only a VM that was started with --live has disks that are still copied in").Do("see `backstay job show %s`", job.ID)
	}
	return job, nil
}

func isLive(job backstay.Job) bool {
	return job.Kind == backstay.JobRestore && taskOf(job, copyTask) != nil
}

func taskOf(job backstay.Job, name string) *backstay.Task {
	for i := range job.Tasks {
		if job.Tasks[i].Name == name {
			return &job.Tasks[i]
		}
	}
	return nil
}

// runsAlready tells whether the VM of a live restore that goes on may have written.
func runsAlready(job backstay.Job) bool {
	start := taskOf(job, "start")
	return isLive(job) && !job.State.Ended() && start != nil && start.State != backstay.TaskPending
}

// refuseCancel keeps a cancel from throwing away what a guest wrote: who means
// that says so by its own name.
func refuseCancel(job backstay.Job) error {
	if !runsAlready(job) {
		return nil
	}
	return backstay.Errorf(backstay.CodeConflict, "the job %s is not cancelled: its VM runs", job.ID).
		Becausef("its disks are still copied in, and cannot be used without the rest").
		Do("say `backstay restore finish %s` to have it done sooner, or `backstay restore abandon %s` to throw the VM away", job.ID, job.ID)
}

// finishRestore lets the rest of a live restore be copied as fast as it can be.
func (s *server) finishRestore(ctx context.Context, in *jobInput) (*answer[backstay.Job], error) {
	job, err := s.liveJob(ctx, in)
	if err != nil {
		return nil, err
	}
	if job.State.Ended() {
		return nil, backstay.Errorf(backstay.CodeJobEnded, "the job %s has ended", job.ID).
			Becausef("it is %s, and copies nothing any more", job.State).Do("see `backstay job show %s`", job.ID)
	}
	return &answer[backstay.Job]{job}, s.Lives.Hurry(ctx, job.ID)
}

// abandonRestore throws away the VM of a live restore whose disks are not complete,
// with all that its guest wrote.
func (s *server) abandonRestore(ctx context.Context, in *jobInput) (*answer[backstay.Job], error) {
	job, err := s.liveJob(ctx, in)
	if err != nil {
		return nil, err
	}
	switch job.State {
	case backstay.JobSucceeded, backstay.JobWarning:
		return nil, backstay.Errorf(backstay.CodeJobEnded, "the VM of job %s is not thrown away", job.ID).
			Becausef("its disks are complete: it is an ordinary VM now").Do("remove it as any other VM, if you mean it")
	case backstay.JobFailed, backstay.JobCancelled:
		return &answer[backstay.Job]{job}, s.Lives.Abandon(ctx, job.ID)
	}
	job, err = s.Jobs.Cancel(ctx, job.ID)
	return &answer[backstay.Job]{job}, err
}
