package client

import (
	"context"
	"net/url"
	"strconv"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/api"
)

// FindFiles looks for files over all points of a VM: a glob with any of *?[ in it, or a
// part; of the whole path if it holds a "/", of the name if not. limit is the most paths;
// 0 means 100.
func (c *Client) FindFiles(ctx context.Context, vm, pattern string, ignoreCase bool, limit int) (api.FoundFiles, error) {
	q := url.Values{"vm": {vm}, "pattern": {pattern}}
	if ignoreCase {
		q.Set("ignoreCase", "true")
	}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[api.FoundFiles](ctx, c.slowly(), api.PathFindFiles+"?"+q.Encode())
}

// DiffPoints tells what changed between two points of a VM, from the older to the newer.
// limit is how many files are named at most; 0 means 1000.
func (c *Client) DiffPoints(ctx context.Context, a, b string, limit int) (backstay.PointDiff, error) {
	q := url.Values{"with": {b}}
	if limit > 0 {
		q.Set("limit", strconv.Itoa(limit))
	}
	return get[backstay.PointDiff](ctx, c.slowly(), api.Path(api.PathPointDiff, a)+"?"+q.Encode())
}
