package api

import (
	"time"

	backstay "github.com/backstay/backstay"
)

// PairingTokenRequest asks for a token by which another server can be paired.
type PairingTokenRequest struct {
	// Replace is the one region that may get another server by the token.
	Replace backstay.RegionName `json:"replace,omitempty" maxLength:"63" doc:"the known region that may get another server by it; empty for none"`
}

// PairingToken lets one server pair with the one that made it.
type PairingToken struct {
	Token   string    `json:"token" doc:"shown once; it can be used once"`
	Expires time.Time `json:"expires"`
	// Region, Address and Fingerprint are of the server that made it.
	Region      backstay.RegionName `json:"region"`
	Address     string              `json:"address"`
	Fingerprint string              `json:"fingerprint"`
}

// PairRequest asks to pair with the server that made the token.
type PairRequest struct {
	Token string `json:"token" minLength:"1" maxLength:"4096" doc:"of the other region's server"`
	// Replace is the one region that may get another server.
	Replace backstay.RegionName `json:"replace,omitempty" maxLength:"63" doc:"the known region that may get another server by it; empty for none"`
}
