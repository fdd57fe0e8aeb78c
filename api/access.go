package api

import backstay "github.com/backstay/backstay"

// CreateTokenRequest asks for a new token.
type CreateTokenRequest struct {
	Name string        `json:"name" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$"`
	Role backstay.Role `json:"role" enum:"reader,operator,owner"`
	// Files lets it open recovery points and take files out of them, beside its role.
	Files bool `json:"files,omitempty"`
}

// CreateTokenResponse has the token and its secret: this once.
type CreateTokenResponse struct {
	Token  backstay.Token `json:"token"`
	Secret string         `json:"secret" doc:"shown once; the server keeps only its SHA-256"`
}

// Identity is who the caller is, and where.
type Identity struct {
	Name    string        `json:"name"`
	Role    backstay.Role `json:"role"`
	Files   bool          `json:"files" doc:"may open recovery points and take files out of them"`
	Region  string        `json:"region"`
	Version string        `json:"version"`
}

// ErrorResponse is the body of every answer that is not a success.
type ErrorResponse struct {
	Error backstay.Error `json:"error"`
}

// Health is the answer to "is the server there?".
type Health struct {
	Status string `json:"status"` // ok
}
