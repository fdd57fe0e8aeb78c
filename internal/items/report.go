package items

import (
	"fmt"

	backstay "github.com/backstay/backstay"
)

// Outcome is what became of an item that was not simply written.
type Outcome string

// The outcomes.
const (
	Skipped Outcome = "skipped"  // something is there already, and stays
	Renamed Outcome = "renamed"  // something was there already; the item got another name
	LeftOut Outcome = "left out" // sockets, and nodes that nobody asked for
	Refused Outcome = "refused"  // it cannot be written there
	Unread  Outcome = "unread"   // it could not be read from the point, or not whole
	Lacking Outcome = "lacking"  // it was written, but not with all that is said of it
)

// Remark is one item of a Report.
type Remark struct {
	Outcome Outcome           `json:"outcome"`
	Path    backstay.FilePath `json:"path"`
	Text    string            `json:"text"` // why, or under which other name
}

// String is the remark as a line for people.
func (m Remark) String() string {
	if m.Text == "" {
		return fmt.Sprintf("%s: %s", m.Outcome, m.Path)
	}
	return fmt.Sprintf("%s: %s: %s", m.Outcome, m.Path, m.Text)
}

// maxRemarks is how many remarks a report holds; the others are counted only.
const maxRemarks = 10_000

// Report says what was written.
type Report struct {
	Files   int64 `json:"files"` // with content, hard links among them
	Folders int64 `json:"folders"`
	Others  int64 `json:"others"` // symbolic links and nodes
	Bytes   int64 `json:"bytes"`  // of content, without holes
	// Remarks are the first 10,000, and Counts how many there are of each outcome.
	Remarks []Remark          `json:"remarks,omitempty"`
	Counts  map[Outcome]int64 `json:"counts,omitempty"`
}

// Whole tells whether all that was to be written is there now.
func (r *Report) Whole() bool { return r.Counts[Refused] == 0 && r.Counts[Unread] == 0 }

func (r *Report) remark(outcome Outcome, path backstay.FilePath, text string) {
	if r.Counts == nil {
		r.Counts = map[Outcome]int64{}
	}
	r.Counts[outcome]++
	if len(r.Remarks) < maxRemarks {
		r.Remarks = append(r.Remarks, Remark{outcome, path, text})
	}
}

// count counts what was written.
func (r *Report) count(it *Item) {
	switch it.Type {
	case backstay.TypeFile:
		r.Files++
	case backstay.TypeFolder:
		r.Folders++
	default:
		r.Others++
	}
}
