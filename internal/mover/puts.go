package mover

import (
	"context"
	"io"

	backstay "github.com/backstay/backstay"
)

// PutRequest asks to put files into a running guest.
type PutRequest struct {
	Job backstay.JobID
	VM  backstay.VMID
	// To is the absolute path of the folder in the guest to which the items' paths are
	// relative.
	To backstay.FilePath
	// Paths and Strip are those of the FileTakeRequest that the items answer: what it did
	// not ask for is an error. No paths mean all of a volume.
	Paths []backstay.FilePath
	Strip backstay.FilePath
	// Conflict says what happens where a file is there already. ConflictAsk puts nothing
	// at all then, with CodeFileExists.
	Conflict backstay.Conflict
}

// PutReport says what was put.
type PutReport struct {
	Files   int   `json:"files"` // hard links among them
	Folders int   `json:"folders"`
	Links   int   `json:"links"` // symbolic
	Skipped int   `json:"skipped"`
	Bytes   int64 `json:"bytes"`
	// Warnings name what could not be put, or not with all that belongs to it.
	Warnings []string `json:"warnings,omitempty"`
}

// Puts puts files into running guests through their agents.
type Puts interface {
	// PutFiles reads a stream of internal/items and writes what is in it into the guest:
	// each file beside its place, verified there, with owner, mode and times. When all
	// of them are, each takes its place. On an error, and when ctx ends, everything is as
	// it was; what the guest did not let be taken back is for EndPut. CodePutFailed with
	// the reason if the guest, or its agent, cannot do what is needed. content is closed.
	PutFiles(ctx context.Context, r PutRequest, content io.ReadCloser, progress Progress) (PutReport, error)
	// EndPut ends what PutFiles of a job left, because the host or the server died: if
	// all files had taken their places it returns what was put, and otherwise it takes all
	// of it back, and complete is false. No error if there is nothing. A report is
	// forgotten with it.
	EndPut(ctx context.Context, job backstay.JobID) (report PutReport, complete bool, err error)
}
