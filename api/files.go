package api

import backstay "github.com/backstay/backstay"

// The paths of item-level restore. In queries and bodies a path is the text of a
// backstay.FilePath: VOLUME:/path, or the guest's own path.
const (
	PathFileSessions = "/v1/file-sessions"
	PathFileSession  = "/v1/file-sessions/{session}"
	PathFileUnlock   = "/v1/file-sessions/{session}/unlock"
	// PathFileFolder takes ?path=P, ?after=A of the page before, and ?limit=N.
	PathFileFolder = "/v1/file-sessions/{session}/folder"
	// PathFileEntry and PathFileContent take ?path=P.
	PathFileEntry   = "/v1/file-sessions/{session}/entry"
	PathFileContent = "/v1/file-sessions/{session}/content"
	PathFileTake    = "/v1/file-sessions/{session}/take"
	PathFilePut     = "/v1/file-sessions/{session}/put"
	PathFileDisk    = "/v1/file-sessions/{session}/disks/{disk}"
	// PathFindFiles takes ?vm=VM&pattern=P, and ?ignoreCase=true and ?limit=N.
	PathFindFiles = "/v1/files"
	// PathPointDiff takes ?with=POINT and ?limit=N.
	PathPointDiff = "/v1/points/{point}/diff"
)

// OpenFilesRequest asks for a session of item-level restore.
type OpenFilesRequest struct {
	Point string               `json:"point" minLength:"1" doc:"id, unique beginning of one, VM, VM@latest or VM@TIME"`
	Tier  backstay.Tier        `json:"tier,omitempty" enum:"snapshot,vault" doc:"the tier that is read; empty for the nearest one"`
	Kind  backstay.SessionKind `json:"kind,omitempty" enum:"browse,mount,nbd" doc:"empty means browse"`
	// Disks are those that are opened; empty means all.
	Disks []backstay.DiskTarget `json:"disks,omitempty"`
	// Life is how long the session lasts at most; 0 means 12 hours.
	Life backstay.Duration `json:"life,omitempty" minimum:"0" doc:"seconds; 0 means 12 hours, and 7 days are the most"`
	// Reuse takes a session of the caller's that is open already, and otherwise opens
	// one that has no ticket and ends when nobody uses it for a while.
	Reuse bool `json:"reuse,omitempty"`
}

// OpenFilesResponse has the session and its ticket: this once.
type OpenFilesResponse struct {
	Session backstay.FileSession `json:"session"`
	Ticket  string               `json:"ticket,omitempty" doc:"opens this session alone, in place of a token; shown once; none with reuse"`
}

// UnlockRequest opens a locked volume. The key goes to the session's small machine,
// and is kept nowhere else.
type UnlockRequest struct {
	Volume backstay.VolumeID  `json:"volume" minLength:"1"`
	Kind   backstay.VolumeKey `json:"kind" enum:"passphrase,key-file,recovery-key"`
	Key    []byte             `json:"key" doc:"base64"`
}

// Folder is a part of a folder.
type Folder struct {
	backstay.FileLocation
	Entries []backstay.FileEntry `json:"entries"`
	Next    string               `json:"next" doc:"after of the next request; empty if that was all"`
}

// Entry is one file, folder, link or node.
type Entry struct {
	backstay.FileLocation
	Entry backstay.FileEntry `json:"entry"`
}

// PutRequest asks to put files and folders, with all that is in them, into a running
// guest.
type PutRequest struct {
	Paths []string `json:"paths" minItems:"1" maxItems:"10000" doc:"of one volume"`
	VM    string   `json:"vm" minLength:"1" doc:"NAME, or HOST/NAME"`
	// To is a folder in the guest; empty puts each file where it was.
	To string `json:"to,omitempty" doc:"absolute path of a folder in the guest; empty means where each file was"`
	// Conflict says what happens to a file that is there already; with ask, or nothing,
	// none is put at all then.
	Conflict backstay.Conflict `json:"conflict,omitempty" enum:"skip,rename,overwrite,ask"`
}

// TakeFormat is the form in which files leave.
type TakeFormat string

// The formats of a take.
const (
	TakeItems TakeFormat = "items" // everything that makes a file what it is; docs/formats
	TakeTar   TakeFormat = "tar"
	TakeZip   TakeFormat = "zip" // without owners, ACLs and the like
)

// TakeRequest asks for files and folders with all that is in them. The answer's body
// ends regularly only if everything was sent: it is cut off otherwise.
type TakeRequest struct {
	Paths  []string   `json:"paths" minItems:"1" maxItems:"10000" doc:"of one volume with items, of any with tar and zip"`
	Format TakeFormat `json:"format" enum:"items,tar,zip"`
}

// FoundFiles are the files that a search over all points of a VM found.
type FoundFiles struct {
	VM    backstay.VMRef       `json:"vm"`
	Files []backstay.FoundFile `json:"files"` // in order of volume and path
	More  bool                 `json:"more"`  // there are more than were asked for
	// Without are the points that were not searched: their files are not listed.
	Without []backstay.PointID `json:"without"`
}
