package server

import (
	"context"
	"path"
	"strings"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

type putInput struct {
	SessionInput
	Body api.PutRequest
}

// putFiles starts a job that puts files into a running guest. Like every taking of
// files it is in the audit trail, path by path, before it begins.
func (s *server) putFiles(ctx context.Context, in *putInput) (*answer[backstay.Job], error) {
	session, err := s.session(ctx, in.Session)
	if err != nil {
		return nil, err
	}
	vm, err := s.vm(ctx, in.Body.VM)
	if err != nil {
		return nil, err
	}
	into := label(vm.Ref())
	params := backstay.PutParams{Session: session.ID, VM: vm.ID, Host: vm.Host, Conflict: in.Body.Conflict}
	if params.Conflict == "" {
		params.Conflict = backstay.ConflictAsk
	}
	var named []string
	for _, text := range in.Body.Paths {
		at, _, err := s.resolve(ctx, session, text, false)
		if err != nil {
			return nil, err
		}
		if len(params.Paths) > 0 && at.Volume != params.Volume {
			return nil, backstay.Errorf(backstay.CodeUsage, "files of several volumes are not put at once").
				Becausef("the paths are on %s and %s", params.Volume, at.Volume).Do("put those of each volume by themselves")
		}
		params.Volume, params.Paths = at.Volume, append(params.Paths, at.Path)
		named = append(named, at.String()+" into "+into)
	}
	if err := placePut(session, &params, in.Body.To); err != nil {
		return nil, err
	}
	c := callOf(ctx)
	c.target = string(session.Point) + " of " + label(session.VM) + " into " + into + ":" + params.To.String()
	if err := s.handOut(ctx, session, named); err != nil {
		return nil, err
	}
	c.audited = false // that the job was started has an entry of its own
	job, err := s.submit(ctx, JobRequest{
		// Neither the VM nor a slot: a put holds up no backup.
		Kind: backstay.JobPut, Target: into, Point: session.Point, Host: vm.Host, Urgent: true, Params: params,
	})
	return &answer[backstay.Job]{job}, err
}

// placePut decides where in the guest the files go.
func placePut(session backstay.FileSession, params *backstay.PutParams, to string) error {
	if to != "" {
		folder, err := backstay.ParseFilePath(to)
		if err != nil || !path.IsAbs(string(folder)) || strings.ContainsRune(string(folder), 0) {
			return backstay.Errorf(backstay.CodeUsage, "%q is not the absolute path of a folder in a guest", to).Becausef("such a path begins with / and is written as `files ls` shows it")
		}
		params.To = backstay.FilePath(path.Clean(string(folder)))
		return nil
	}
	for _, v := range session.Volumes {
		if v.ID == params.Volume && path.IsAbs(v.MountPoint) {
			params.To, params.Strip = backstay.FilePath(path.Clean(v.MountPoint)), "/"
			return nil
		}
	}
	return backstay.Errorf(backstay.CodeUsage, "nobody knows where in the guest the files of volume %s were", params.Volume).
		Becausef("no fstab in the point says where it is mounted").Do("name a folder in the guest with --to")
}
