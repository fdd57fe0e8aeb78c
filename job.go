package backstay

import (
	"context"
	"errors"
	"time"
)

// JobKind is what a job does.
type JobKind string

// The kinds of job.
const (
	JobBackup  JobKind = "backup"
	JobRestore JobKind = "restore"
	JobUndo    JobKind = "undo" // of a restore
	JobDeploy  JobKind = "deploy"
	JobExpire  JobKind = "expire"
	JobVerify  JobKind = "verify"
	JobReclaim JobKind = "reclaim"
	JobRepair  JobKind = "repair"
	JobRebuild JobKind = "rebuild"
	// JobReplicate pushes what the paired region lacks of a vault.
	JobReplicate JobKind = "replicate"
	// JobRedundancy brings a vault's units to what its redundancy asks for.
	JobRedundancy JobKind = "redundancy"
	// JobRejoin brings a vault back from its replica in the paired region.
	JobRejoin JobKind = "rejoin"
	JobDrill  JobKind = "drill"
	JobIndex  JobKind = "index" // the files of a point, for find
	JobPut    JobKind = "put"   // files of a point into a running guest
)

// JobState is where a job stands. queued → running → one of the ended states;
// running → cancelling → cancelled (or whatever it still became).
type JobState string

// The states of a job.
const (
	JobQueued     JobState = "queued"
	JobRunning    JobState = "running"
	JobCancelling JobState = "cancelling"
	JobSucceeded  JobState = "succeeded"
	JobWarning    JobState = "warning"
	JobFailed     JobState = "failed"
	JobCancelled  JobState = "cancelled"
)

// Ended tells whether nothing more will happen in this state.
func (s JobState) Ended() bool {
	switch s {
	case JobSucceeded, JobWarning, JobFailed, JobCancelled:
		return true
	}
	return false
}

// TaskState is where one task of a job stands.
type TaskState string

// The states of a task.
const (
	TaskPending   TaskState = "pending"
	TaskRunning   TaskState = "running"
	TaskSucceeded TaskState = "succeeded"
	TaskFailed    TaskState = "failed"
	TaskSkipped   TaskState = "skipped"
	TaskUndone    TaskState = "undone"
)

// Task is one step of a job.
type Task struct {
	Name    string     `json:"name"`
	State   TaskState  `json:"state"`
	Percent float64    `json:"percent"`
	Started *time.Time `json:"started"`
	Ended   *time.Time `json:"ended"`
	Detail  string     `json:"detail"`
}

// JobStats are the figures of a job. Requests of a replication are its calls of the
// other region; else they are those that a backup made to
// the storage units of its vault, over all copies. FreezeMs is an upper bound of the time for
// which the guest's file systems were frozen.
type JobStats struct {
	FreezeMs   int64 `json:"freezeMs"`
	BytesRead  int64 `json:"bytesRead"`
	BytesDirty int64 `json:"bytesDirty"`
	BytesNew   int64 `json:"bytesNew"`
	ChunksNew  int64 `json:"chunksNew"`
	Requests   int64 `json:"requests"`
}

// BackedUp is what a backup made of one VM.
type BackedUp struct {
	VM    VMRef   `json:"vm"`
	Point PointID `json:"point"`
	// Disks are in the point, Excluded are not, each with the reason.
	Disks    []DiskTarget  `json:"disks"`
	Excluded []DiskVerdict `json:"excluded"`
	// Size is the guest-visible bytes of the disks in the point.
	Size int64 `json:"size"`
	// Modes say how the transfer found out what changed on each disk.
	Modes map[DiskTarget]string `json:"modes,omitempty"`
	// Skipped says why the point is not carried to its vault; empty if it is.
	Skipped string `json:"skipped,omitempty"`
}

// JobResult is what a job made.
type JobResult struct {
	Point PointID  `json:"point,omitempty"`
	VM    *VMRef   `json:"vm,omitempty"`
	Disks []string `json:"disks,omitempty"` // paths on the host
	Files []string `json:"files,omitempty"` // template and parameter files
	// Backups are what a backup made, for each of its VMs.
	Backups []BackedUp `json:"backups,omitempty"`
	// SHA256 of each disk's whole content, from a verify.
	SHA256 map[DiskTarget]string `json:"sha256,omitempty"`
	// Reclaimed is what a reclaim did.
	Reclaimed *Reclaimed `json:"reclaimed,omitempty"`
	// Repaired is how many copies of objects a repair wrote anew.
	Repaired int `json:"repaired,omitempty"`
	// Changes are what a rebuild changed in the catalogue, in words.
	Changes []string `json:"changes,omitempty"`
	// Put is what was put into a guest.
	Put *PutResult `json:"put,omitempty"`
	// Drill is the record of a drill, and Verdict what came of it.
	Drill   DrillID      `json:"drill,omitempty"`
	Verdict DrillVerdict `json:"verdict,omitempty"`
	// Folder holds all that a restore of disks made.
	Folder string `json:"folder,omitempty"`
	// UndoUntil is until when `restore undo` puts everything back; nil if it cannot.
	UndoUntil *time.Time `json:"undoUntil,omitempty"`
	// SafetyPoint is the point of the state before a replace-disks.
	SafetyPoint PointID `json:"safetyPoint,omitempty"`
	// DownSeconds is how long a replace-disks kept the VM from running, from its
	// shutdown to its start.
	DownSeconds float64 `json:"downSeconds,omitempty"`
	// UpSeconds is the time from start until the VM was seen to be up.
	UpSeconds float64 `json:"upSeconds,omitempty"`
}

// PutResult is what was put into a running guest.
type PutResult struct {
	To      FilePath `json:"to"` // the folder in the guest
	Files   int      `json:"files"`
	Folders int      `json:"folders"` // that were not there before
	Links   int      `json:"links"`   // symbolic
	Skipped int      `json:"skipped"` // since something was there already
	Bytes   int64    `json:"bytes"`
}

// Job is one run of backup, restore, replicate, verify, repair, expire,
// reclaim or drill.
type Job struct {
	ID         JobID      `json:"id"`
	Kind       JobKind    `json:"kind"`
	State      JobState   `json:"state"`
	Target     string     `json:"target"` // the VM, as HOST/NAME, or group:NAME
	Point      PointID    `json:"point"`
	Region     string     `json:"region"`
	User       string     `json:"user"`
	Created    time.Time  `json:"created"`
	Started    *time.Time `json:"started"`
	Ended      *time.Time `json:"ended"`
	Percent    float64    `json:"percent"`
	BytesDone  int64      `json:"bytesDone"`
	BytesTotal int64      `json:"bytesTotal"`
	// BytesPerSecond is the rate of the last seconds; EtaSeconds is nil while
	// no honest estimate can be made.
	BytesPerSecond int64     `json:"bytesPerSecond"`
	EtaSeconds     *int64    `json:"etaSeconds"`
	Tasks          []Task    `json:"tasks"`
	Error          *Error    `json:"error"`
	Warnings       []string  `json:"warnings"`
	Result         JobResult `json:"result"`
	Stats          JobStats  `json:"stats"`
	// Retries is the job that this one repeats, if any.
	Retries JobID `json:"retries,omitempty"`
	// Urgent: the job goes ahead of all others and takes no slot of its host.
	Urgent bool `json:"urgent,omitempty"`
	// Waiting says what a queued job waits for.
	Waiting string `json:"waiting,omitempty"`
}

// The causes with which a running job's context ends.
var (
	// ErrCancelled: somebody cancelled the job; undo and end.
	ErrCancelled = errors.New("the job was cancelled")
	// ErrStopping: the server stops; leave everything, the job goes on at the
	// next start.
	ErrStopping = errors.New("the server is stopping")
)

// Run is one job as its runner sees it. All that is told to it is durable
// before the call returns, except Progress, which may be up to a second late.
type Run interface {
	// Job returns the job as it stands.
	Job() Job
	// Step runs fn as the named task. A task that already succeeded in an
	// earlier life of the job is not run again and Step returns nil at once; fn
	// must therefore leave in Save what later steps need, and must be safe to
	// run again when it was cut off in the middle.
	Step(ctx context.Context, name string, fn func(context.Context) error) error
	// Progress tells how far the job is, in bytes.
	Progress(done, total int64)
	// Load reads the state that the last Save left into v; false if none.
	Load(v any) (bool, error)
	// Save keeps v (as JSON) for a later life of this job. It must hold no secret.
	Save(v any) error
	// Warn adds a warning: the job will end as "warning" rather than "succeeded".
	Warn(warning string) error
	// Update changes the job's point, result and stats.
	Update(change func(*Job)) error
}

// LongRun is the run of a job that lets others at its VMs before it ends, and
// leaves out tasks that turn out to be needless. What is told to it is durable
// as with Run.
type LongRun interface {
	Run
	// FreeVMs lets other jobs change the job's VMs from now on, also when this
	// one goes on in a later life. It cannot be taken back.
	FreeVMs() error
	// Skip ends the named task as skipped, for the reason: Step does not run it.
	Skip(name, reason string) error
	// Note says something about the named task, for people.
	Note(name, detail string) error
}
