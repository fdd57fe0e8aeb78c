package server

import (
	"context"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
	"github.com/backstay/backstay/internal/mover"
)

// FileFind is what is looked for over all points of a VM.
type FileFind struct {
	VM      backstay.VMRef
	Pattern string
	Fold    bool // upper and lower case are the same
	Limit   int  // the most paths
}

// FileLists are the lists of the files of VMs over their points. All methods may be
// called concurrently.
type FileLists interface {
	// Find searches. CodeNotIndexed if no point of the VM is listed.
	Find(ctx context.Context, f FileFind) (mover.FoundFiles, error)
	// Diff tells what changed between two points of a VM, from the older to the newer,
	// and names at most limit files.
	Diff(ctx context.Context, a, b backstay.RecoveryPoint, limit int) (backstay.PointDiff, error)
}

type findInput struct {
	VM         string `query:"vm" required:"true" minLength:"1" doc:"UUID, NAME or HOST/NAME, also of a VM that is gone"`
	Pattern    string `query:"pattern" required:"true" minLength:"1" doc:"a glob with * ? [] **, or a part; of the whole path if it holds a /, of the name if not"`
	IgnoreCase bool   `query:"ignoreCase" doc:"upper and lower case are the same"`
	Limit      int    `query:"limit" minimum:"1" maximum:"10000" default:"100"`
}

type diffInput struct {
	Point string `path:"point" doc:"id, unique beginning of one, VM@latest or VM@TIME"`
	With  string `query:"with" required:"true" minLength:"1" doc:"another point of the VM"`
	Limit int    `query:"limit" minimum:"1" maximum:"100000" default:"1000" doc:"the most files that are named"`
}

// findFiles names files of a guest, and so is audited with what was looked for.
func (s *server) findFiles(ctx context.Context, in *findInput) (*answer[api.FoundFiles], error) {
	vm, err := s.vmRef(ctx, in.VM)
	if err != nil {
		return nil, err
	}
	callOf(ctx).target = label(vm) + ": files " + backstay.FilePath(in.Pattern).String()
	found, err := s.Lists.Find(ctx, FileFind{VM: vm, Pattern: in.Pattern, Fold: in.IgnoreCase, Limit: in.Limit})
	if err != nil {
		return nil, err
	}
	return &answer[api.FoundFiles]{api.FoundFiles{VM: vm, Files: found.Files, More: found.More, Without: found.Without}}, nil
}

func (s *server) diffPoints(ctx context.Context, in *diffInput) (*answer[backstay.PointDiff], error) {
	a, err := s.pointOrNewest(ctx, in.Point)
	if err != nil {
		return nil, err
	}
	b, err := s.pointOrNewest(ctx, in.With)
	if err != nil {
		return nil, err
	}
	callOf(ctx).target = string(a.ID) + " and " + string(b.ID) + " of " + label(a.VM)
	d, err := s.Lists.Diff(ctx, a, b, in.Limit)
	return &answer[backstay.PointDiff]{d}, err
}
