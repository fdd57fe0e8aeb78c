package rpc

import (
	"encoding/json"

	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// answer is one line from the host's side; at most one field is set, and none
// in a beat.
type answer struct {
	// Bytes is how many bytes follow the line, of what a call streams.
	Bytes    int64           `json:"bytes,omitempty"`
	Progress json.RawMessage `json:"progress,omitempty"`
	Result   json.RawMessage `json:"result,omitempty"`
	Error    *backstay.Error `json:"error,omitempty"`
}

// sign is one line from the client's side after the request; empty in a beat.
type sign struct {
	Cancel bool `json:"cancel,omitempty"`
	// Data is the next piece of a call's content, and End says that there is no more.
	Data []byte `json:"data,omitempty"`
	End  bool   `json:"end,omitempty"`
}

// hello is the answer to GET /mover/v1/hello.
type hello struct {
	Protocol int `json:"protocol"`
}

// none stands for no request, no result or no progress.
type none struct{}

// vaultWire is a VaultAccess whose key is really there. A Secret encodes as
// stars; the field of the same name one level up hides it from the encoder.
type vaultWire struct {
	mover.VaultAccess
	Key []byte `json:"Key"`
}

func toVaultWire(v mover.VaultAccess) vaultWire { return vaultWire{v, v.Key.Reveal()} }

func (w vaultWire) access() mover.VaultAccess {
	v := w.VaultAccess
	v.Key = backstay.NewSecret(w.Key)
	return v
}

func toOptionalVaultWire(v *mover.VaultAccess) *vaultWire {
	if v == nil {
		return nil
	}
	w := toVaultWire(*v)
	return &w
}

func (w *vaultWire) optional() *mover.VaultAccess {
	if w == nil {
		return nil
	}
	v := w.access()
	return &v
}

type transferWire struct {
	mover.TransferRequest
	Vault vaultWire `json:"Vault"`
}

func toTransferWire(r mover.TransferRequest) transferWire {
	return transferWire{r, toVaultWire(r.Vault)}
}

func (w transferWire) request() mover.TransferRequest {
	r := w.TransferRequest
	r.Vault = w.Vault.access()
	return r
}

type pullWire struct {
	mover.PullRequest
	Vault vaultWire      `json:"Vault"`
	Keys  *keyPolicyWire `json:"Keys"`
}

func toPullWire(r mover.PullRequest) pullWire {
	return pullWire{r, toVaultWire(r.Vault), toKeyPolicyWire(r.Keys)}
}

func (w pullWire) request() mover.PullRequest {
	r := w.PullRequest
	r.Vault, r.Keys = w.Vault.access(), w.Keys.policy()
	return r
}

type verifyWire struct {
	mover.VerifyRequest
	Vault *vaultWire `json:"Vault"`
}

func toVerifyWire(r mover.VerifyRequest) verifyWire {
	return verifyWire{r, toOptionalVaultWire(r.Vault)}
}

func (w verifyWire) request() mover.VerifyRequest {
	r := w.VerifyRequest
	r.Vault = w.Vault.optional()
	return r
}

type stageWire struct {
	mover.StageRequest
	Vault    *vaultWire    `json:"Vault"`
	Services []serviceWire `json:"Services"`
}

func toStageWire(r mover.StageRequest) stageWire {
	return stageWire{r, toOptionalVaultWire(r.Vault), toServiceWires(r.Services)}
}

func (w stageWire) request() mover.StageRequest {
	r := w.StageRequest
	r.Vault, r.Services = w.Vault.optional(), services(w.Services)
	return r
}

type pinWire struct {
	Point  backstay.PointID
	Pinned bool
}

type settleWire struct {
	VM    backstay.VMID
	Point backstay.PointID
}

type settledWire struct {
	Taken mover.Taken
	Found bool
}
