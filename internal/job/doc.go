// Package job is the queue of jobs: it makes them durable, starts them when the
// VMs and the slots that they need are free, follows their progress, cancels
// them, and takes up what a crash cut off. It also holds the scheduler, which
// decides when a protected item is due.
//
// It knows no engine: what a kind of job does is a Runner that is handed in.
// It reaches no host and no vault, and it keeps nothing in memory that a start
// after a crash would miss.
//
// # The life of a job
//
//	             cancel
//	 ┌────────┐──────────────────────────────────────────┐
//	 │ queued │                                          │
//	 └───┬────┘                                          │
//	     │ claim: VMs and slots are free                 │
//	     ▼                                               ▼
//	 ┌─────────┐ cancel ┌────────────┐ undone       ┌───────────┐
//	 │ running │───────▶│ cancelling │─────────────▶│ cancelled │
//	 └─┬─────┬─┘        └──┬───┬─────┘              └───────────┘
//	   │     │ ▲ ▲         │   │ ▲
//	   │     │ │ └─stop────┼───┼─┘ claim again: same state, next life
//	   │     └─crash───────┼───┘
//	   │                   │ it ended all the same
//	   ▼                   ▼
//	succeeded | warning | failed                 (ended: nothing more happens)
//
//	from        event                                to          what is written
//	-           Submit                               queued      the job, its tasks pending
//	queued      claim                                running     lock, fence+1, attempt+1, started
//	queued      Cancel                               cancelled   tasks skipped
//	running     Cancel                               cancelling  the runner's context ends with ErrCancelled
//	running     runner returns nil, no warning       succeeded   percent 100
//	running     runner returns nil, warnings         warning     percent 100
//	running     runner returns an error or panics    failed      error; running task failed, the rest skipped
//	running     crash of the server                  running     nothing; claimed again when the lock runs out,
//	                                                             or at once by a server that is alone (Exclusive)
//	running     Stop                                 running     lock released, attempt-1; claimed at the next Start
//	running     more than MaxAttempts crashes        failed      one last life to undo, with its context ended
//	cancelling  runner returns an error              cancelled   running task undone, the rest skipped
//	cancelling  runner returns nil                   succeeded or warning: it was faster than the cancel
//	cancelling  crash, Stop                          cancelling  as for running; the next life begins with its
//	                                                             context ended, so that it undoes what is there
//	ended       Cancel                               refused     CodeJobEnded
//
// A job that was cut off runs again from the top with the same parameters and
// what it saved: tasks that succeeded are not run again, the one that was
// running is. Each life has a higher fence; a write of an earlier life fails,
// and its context ends with ErrStopping, since another life goes on with it.
//
// # Who goes first
//
// Oldest first, but urgent ones before all others, and without a slot: the room
// that they give back is what a guest waits for. One job at a time may change one VM, and a job waits behind an
// older one that waits for the same VM. A job may let go of its VMs before it
// ends (LongRun.FreeVMs): a backup does once its snapshot is recorded. A job that
// wants to be alone (Request.Alone) is refused rather than queued while another
// one of its kind has a VM of it or waits for it. A job that finds its host or its vault
// full lets younger ones that need neither pass; the first in such a line keeps
// a slot of what else it needs, so nobody waits for ever.
package job
