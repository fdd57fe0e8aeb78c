package api

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// CreateTokenRequest asks for a new token.
type CreateTokenRequest struct {
	Name string        `json:"name" minLength:"1" maxLength:"63" pattern:"^[A-Za-z0-9][A-Za-z0-9._@-]*$"`
	Role backstay.Role `json:"role" enum:"reader,operator,owner"`
	// Files lets it open recovery points and take files out of them, beside its role.
	Files bool `json:"files,omitempty"`
	// Point binds the token to one recovery point, which it may look at and restore
	// beside what is there. VM@latest means the point that is the newest now.
	Point string `json:"point,omitempty" doc:"binds the token to one recovery point: id, unique beginning of one, VM@latest or VM@TIME"`
	// Expires is how long the token counts; 0 means until it is deleted, which a token
	// of one point cannot have.
	Expires backstay.Duration `json:"expires,omitempty" minimum:"0" doc:"seconds; 0 means until it is deleted. A token of one point needs it, and 7 days are the most"`
}

// CreateTokenResponse has the token and its secret: this once.
type CreateTokenResponse struct {
	Token  backstay.Token `json:"token"`
	Secret string         `json:"secret" doc:"shown once; the server keeps only its SHA-256"`
}

// Identity is who the caller is, and where.
type Identity struct {
	Name    string           `json:"name"`
	Role    backstay.Role    `json:"role"`
	Files   bool             `json:"files" doc:"may open recovery points and take files out of them"`
	Point   backstay.PointID `json:"point,omitempty" doc:"the only recovery point that the token opens"`
	Expires *time.Time       `json:"expires"`
	Region  string           `json:"region"`
	Version string           `json:"version"`
}

// ErrorResponse is the body of every answer that is not a success.
type ErrorResponse struct {
	Error backstay.Error `json:"error"`
}

// Health is the answer to "is the server there?".
type Health struct {
	Status string `json:"status"` // ok
}
