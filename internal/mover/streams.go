package mover

import (
	"context"

	backstay "github.com/backstay/backstay"
)

// AskKind is what a restore asks the point's host for.
type AskKind string

// The kinds of ask.
const (
	AskDefinition AskKind = "definition" // all that the point holds beside the disks
	AskExtents    AskKind = "extents"    // where a range of a disk is data
	AskData       AskKind = "data"       // a range of a disk, at most MaxAsk bytes
	// AskProof asks whether what was served was the point all the time: nobody wrote
	// to its layers.
	AskProof AskKind = "proof"
)

// MaxAsk is the most data of one ask, in bytes.
const MaxAsk = 1 << 20

// StreamAsk is one thing that a restore wants of a point on another host.
type StreamAsk struct {
	ID     uint64              `json:"id"` // tells the answers of one restore apart
	Kind   AskKind             `json:"kind"`
	Disk   backstay.DiskTarget `json:"disk,omitempty"`
	Offset int64               `json:"offset,omitempty"`
	Length int64               `json:"length,omitempty"`
}

// StreamPiece answers one ask. Sealed can be opened by the restoring host alone;
// who carries it sees its length and nothing else (I10).
type StreamPiece struct {
	ID     uint64          `json:"id"`
	Sealed []byte          `json:"sealed,omitempty"`
	Error  *backstay.Error `json:"error,omitempty"`
}

// ServeRequest asks the host of a snapshot-tier point to answer.
type ServeRequest struct {
	Job   backstay.JobID   `json:"job"`
	Point backstay.PointID `json:"point"`
	// Key is the restoring host's public key for this job.
	Key  []byte      `json:"key"`
	Asks []StreamAsk `json:"asks"`
}

// Served are the answers. Key is the serving host's public key for this job.
type Served struct {
	Key    []byte        `json:"key"`
	Pieces []StreamPiece `json:"pieces"`
}

// ExchangeRequest brings a restore what it asked for.
type ExchangeRequest struct {
	Job    backstay.JobID `json:"job"`
	Served Served         `json:"served"`
}

// Exchanged is what a restore asks for next. Key is its public key for this job; it
// is another one after its mover was started anew.
type Exchanged struct {
	Key  []byte      `json:"key"`
	Asks []StreamAsk `json:"asks"`
}

// Streams carries snapshot-tier points to other hosts of the region. A restore
// whose plan names StreamedFrom asks; whoever runs the job carries asks to the
// point's host and answers back, and can read none of them.
type Streams interface {
	// Serve answers asks of a point, sealed. From the first call until EndStream, or
	// until nobody has asked for a while, no layer of the point is merged. What one
	// ask fails with is in its piece; CodeUnknownPoint if the point is not here.
	Serve(ctx context.Context, r ServeRequest) (Served, error)
	// Exchange gives a restore its answers, and waits until it asks for more. With
	// nothing to ask for it returns after a while without an ask.
	Exchange(ctx context.Context, r ExchangeRequest) (Exchanged, error)
	// EndStream forgets all of a job's streams on the host: keys, and holds on layers.
	EndStream(ctx context.Context, job backstay.JobID) error
}
