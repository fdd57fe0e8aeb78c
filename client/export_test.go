package client

// Address returns the address of a client's server.
func Address(c *Client) string { return c.base }
