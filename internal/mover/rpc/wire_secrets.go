package rpc

import (
	backstay "github.com/backstay/backstay"
	"github.com/backstay/backstay/internal/mover"
)

// serviceWire is a KeyService whose credential is really there; see vaultWire.
type serviceWire struct {
	mover.KeyService
	Credential []byte `json:"Credential"`
}

func toServiceWire(s mover.KeyService) serviceWire { return serviceWire{s, s.Credential.Reveal()} }

func (w serviceWire) service() mover.KeyService {
	s := w.KeyService
	s.Credential = backstay.NewSecret(w.Credential)
	return s
}

func toServiceWires(all []mover.KeyService) []serviceWire {
	var wires []serviceWire
	for _, s := range all {
		wires = append(wires, toServiceWire(s))
	}
	return wires
}

func services(wires []serviceWire) []mover.KeyService {
	var all []mover.KeyService
	for _, w := range wires {
		all = append(all, w.service())
	}
	return all
}

type keyPolicyWire struct {
	mover.KeyPolicy
	Service serviceWire `json:"Service"`
}

func toKeyPolicyWire(p *mover.KeyPolicy) *keyPolicyWire {
	if p == nil {
		return nil
	}
	return &keyPolicyWire{*p, toServiceWire(p.Service)}
}

func (w *keyPolicyWire) policy() *mover.KeyPolicy {
	if w == nil {
		return nil
	}
	p := w.KeyPolicy
	p.Service = w.Service.service()
	return &p
}

type prepareWire struct {
	mover.PrepareRequest
	Keys *keyPolicyWire `json:"Keys"`
}

func toPrepareWire(r mover.PrepareRequest) prepareWire {
	return prepareWire{r, toKeyPolicyWire(r.Keys)}
}

func (w prepareWire) request() mover.PrepareRequest {
	r := w.PrepareRequest
	r.Keys = w.Keys.policy()
	return r
}

type secretsWire struct {
	mover.SecretsRequest
	Vault    *vaultWire    `json:"Vault"`
	Services []serviceWire `json:"Services"`
}

func toSecretsWire(r mover.SecretsRequest) secretsWire {
	return secretsWire{r, toOptionalVaultWire(r.Vault), toServiceWires(r.Services)}
}

func (w secretsWire) request() mover.SecretsRequest {
	r := w.SecretsRequest
	r.Vault, r.Services = w.Vault.optional(), services(w.Services)
	return r
}

type givenWire struct {
	UUID  string
	Value []byte
}

type giveWire struct {
	Of      secretsWire
	Secrets []givenWire
}

func toGiveWire(r mover.GiveRequest) giveWire {
	w := giveWire{Of: toSecretsWire(r.SecretsRequest)}
	for _, s := range r.Secrets {
		w.Secrets = append(w.Secrets, givenWire{s.UUID, s.Value.Reveal()})
	}
	return w
}

func (w giveWire) request() mover.GiveRequest {
	r := mover.GiveRequest{SecretsRequest: w.Of.request()}
	for _, s := range w.Secrets {
		r.Secrets = append(r.Secrets, mover.GivenSecret{UUID: s.UUID, Value: backstay.NewSecret(s.Value)})
	}
	return r
}
