package client

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net/http"
	"net/url"
	"strconv"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// OpenFiles opens a recovery point for item-level restore. The ticket in the answer
// can be given to New in place of a token, for that session alone.
func (c *Client) OpenFiles(ctx context.Context, r api.OpenFilesRequest) (api.OpenFilesResponse, error) {
	var out api.OpenFilesResponse
	err := c.slowly().do(ctx, http.MethodPost, api.PathFileSessions, r, &out)
	return out, err
}

// FileSessions lists the open sessions: one's own, or all for an owner.
func (c *Client) FileSessions(ctx context.Context) ([]backstay.FileSession, error) {
	return get[[]backstay.FileSession](ctx, c, api.PathFileSessions)
}

// FileSession returns one session with its volumes.
func (c *Client) FileSession(ctx context.Context, id backstay.FileSessionID) (backstay.FileSession, error) {
	return get[backstay.FileSession](ctx, c, api.Path(api.PathFileSession, string(id)))
}

// EndFileSession ends a session at once.
func (c *Client) EndFileSession(ctx context.Context, id backstay.FileSessionID) error {
	return c.do(ctx, http.MethodDelete, api.Path(api.PathFileSession, string(id)), nil, nil)
}

// UnlockVolume opens a locked volume with its key and returns the session with the
// volumes that it has then.
func (c *Client) UnlockVolume(ctx context.Context, id backstay.FileSessionID, r api.UnlockRequest) (backstay.FileSession, error) {
	var out backstay.FileSession
	err := c.slowly().do(ctx, http.MethodPost, api.Path(api.PathFileUnlock, string(id)), r, &out)
	return out, err
}

// Folder lists a part of a folder: at most limit entries (0 means 1000) after those of
// the page whose Next is given.
func (c *Client) Folder(ctx context.Context, id backstay.FileSessionID, path backstay.FilePath, after string, limit int) (api.Folder, error) {
	q := url.Values{"path": {path.String()}}
	if after != "" {
		q.Set("after", after)
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[api.Folder](ctx, c, api.Path(api.PathFileFolder, string(id))+"?"+q.Encode())
}

// Entry returns what is at a path; of a symbolic link the link itself.
func (c *Client) Entry(ctx context.Context, id backstay.FileSessionID, path backstay.FilePath) (api.Entry, error) {
	return get[api.Entry](ctx, c, api.Path(api.PathFileEntry, string(id))+"?"+url.Values{"path": {path.String()}}.Encode())
}

// ReadFile reads length bytes of a file from an offset on; to the end if length is
// negative. The caller closes it. Reading fails where the content breaks off.
func (c *Client) ReadFile(ctx context.Context, id backstay.FileSessionID, path backstay.FilePath, offset, length int64) (io.ReadCloser, error) {
	return c.content(ctx, api.Path(api.PathFileContent, string(id))+"?"+url.Values{"path": {path.String()}}.Encode(), offset, length)
}

// ReadDisk reads a disk of a session of kind nbd, as ReadFile reads a file.
func (c *Client) ReadDisk(ctx context.Context, id backstay.FileSessionID, disk backstay.DiskTarget, offset, length int64) (io.ReadCloser, error) {
	return c.content(ctx, api.Path(api.PathFileDisk, string(id), string(disk)), offset, length)
}

// DiskSize returns the size of a disk of a session of kind nbd, in bytes.
func (c *Client) DiskSize(ctx context.Context, id backstay.FileSessionID, disk backstay.DiskTarget) (int64, error) {
	resp, err := c.send(ctx, http.MethodGet, api.Path(api.PathFileDisk, string(id), string(disk)), nil, "*/*", "Range", "bytes=0-0")
	if err != nil {
		return 0, err
	}
	defer resp.Body.Close()
	var first, last, size int64
	if _, err := fmt.Sscanf(resp.Header.Get("Content-Range"), "bytes %d-%d/%d", &first, &last, &size); err != nil {
		return 0, c.broken(ctx, fmt.Errorf("read the size of disk %s: %w", disk, err))
	}
	return size, nil
}

func (c *Client) content(ctx context.Context, path string, offset, length int64) (io.ReadCloser, error) {
	if length == 0 {
		return http.NoBody, nil
	}
	var headers []string
	switch {
	case length > 0:
		headers = []string{"Range", fmt.Sprintf("bytes=%d-%d", offset, offset+length-1)}
	case offset > 0:
		headers = []string{"Range", fmt.Sprintf("bytes=%d-", offset)}
	}
	resp, err := c.slowly().send(ctx, http.MethodGet, path, nil, "*/*", headers...)
	if err != nil {
		return nil, err
	}
	return &body{ReadCloser: resp.Body, client: c, ctx: ctx}, nil
}

// TakeFiles takes files and folders with all that is in them. The caller closes the
// stream. Only a stream that ends with io.EOF is whole.
func (c *Client) TakeFiles(ctx context.Context, id backstay.FileSessionID, r api.TakeRequest) (io.ReadCloser, error) {
	resp, err := c.slowly().send(ctx, http.MethodPost, api.Path(api.PathFileTake, string(id)), r, "*/*")
	if err != nil {
		return nil, err
	}
	return &body{ReadCloser: resp.Body, client: c, ctx: ctx}, nil
}

// PutFiles starts a job that puts files and folders into a running guest.
func (c *Client) PutFiles(ctx context.Context, id backstay.FileSessionID, r api.PutRequest) (backstay.Job, error) {
	var out backstay.Job
	err := c.do(ctx, http.MethodPost, api.Path(api.PathFilePut, string(id)), r, &out)
	return out, err
}

// body is the body of an answer; where it breaks off its error says so.
type body struct {
	io.ReadCloser
	client *Client
	ctx    context.Context
}

// Read reads on. Errors are coded, and io.EOF is the end of a whole body.
func (b *body) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == nil || errors.Is(err, io.EOF) && !errors.Is(err, io.ErrUnexpectedEOF) {
		return n, err
	}
	if b.ctx.Err() != nil {
		return n, context.Cause(b.ctx)
	}
	return n, backstay.Errorf(backstay.CodeTransferFailed, "the answer of the server broke off").
		Becausef("the connection ended before all had come: %s", err).Do("run the command again; the server's log says why")
}

// slowly is the client for what may take its time before it answers.
func (c *Client) slowly() *Client {
	slow := *c
	slow.http = c.slow
	return &slow
}
