package api

import backstay "github.com/backstay/backstay"

// AddRecipientRequest names a recipient that shall open a vault: a public key as
// age writes it, or a passphrase, which is kept nowhere.
type AddRecipientRequest struct {
	Recipient  string                    `json:"recipient,omitempty" doc:"an age recipient: age1…, age1pq1…, or that of a plugin"`
	Passphrase string                    `json:"passphrase,omitempty" doc:"instead of a recipient; kept nowhere"`
	Purpose    backstay.RecipientPurpose `json:"purpose,omitempty" enum:"recovery,person,server" doc:"empty means person"`
	Label      string                    `json:"label,omitempty" doc:"for people"`
}

// RotateKeysRequest asks for a new key for what is sealed from now on.
type RotateKeysRequest struct {
	// Passphrases of all passphrase recipients; used once and kept nowhere.
	Passphrases []string `json:"passphrases,omitempty" maxItems:"64" nullable:"false" doc:"those of the vault's passphrase recipients; kept nowhere"`
}

// RemoveRecipientRequest asks to take a recipient out of a vault.
type RemoveRecipientRequest struct {
	Recipient   string   `json:"recipient" minLength:"1" doc:"its id, label or public text"`
	Passphrases []string `json:"passphrases,omitempty" maxItems:"64" nullable:"false" doc:"those of the passphrase recipients that stay; kept nowhere"`
	Force       bool     `json:"force,omitempty" doc:"also the last recovery recipient: the vault is lost with its server then"`
}

// EscrowCheckRequest has the key that is to be proved: an age identity, or a
// passphrase. It is used once and kept nowhere.
type EscrowCheckRequest struct {
	Key        string `json:"key,omitempty" doc:"an age identity, such as a recovery key; kept nowhere"`
	Passphrase string `json:"passphrase,omitempty" doc:"instead of a key; kept nowhere"`
}
