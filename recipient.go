package backstay

// RecipientKind is how a vault's keys are wrapped for a recipient.
type RecipientKind string

// The kinds of recipient.
const (
	KindX25519     RecipientKind = "x25519"     // an age key: age1…
	KindHybrid     RecipientKind = "hybrid"     // an age key that withstands quantum computers: age1pq1…
	KindPlugin     RecipientKind = "plugin"     // a key behind an age plugin, such as a hardware token: age1name1…
	KindPassphrase RecipientKind = "passphrase" // a passphrase, through scrypt
)

// RecipientPurpose is what a recipient is for.
type RecipientPurpose string

// The purposes.
const (
	ForServer   RecipientPurpose = "server"   // a server of the region, which opens the vault in daily work
	ForRecovery RecipientPurpose = "recovery" // kept away from here, for the day when the server is lost
	ForPerson   RecipientPurpose = "person"   // somebody who may open the vault
)

// VaultRecipient is a key to which a vault's keys are wrapped. It holds nothing
// secret.
type VaultRecipient struct {
	// ID names the recipient in the vault, for as long as it is one.
	ID      string           `json:"id"`
	Kind    RecipientKind    `json:"kind"`
	Purpose RecipientPurpose `json:"purpose"`
	Label   string           `json:"label,omitempty"`
	// Recipient is the public side, as age writes it; a passphrase has none.
	Recipient string `json:"recipient,omitempty"`
}

// VaultKeys say who can open a vault.
type VaultKeys struct {
	Vault VaultName `json:"vault"`
	// KeyID tells one vault's key from another's and says nothing of it.
	KeyID string `json:"keyId"`
	// Generation counts the changes of who can open the vault, from 1; Epoch the
	// keys with which new data was sealed over time, from 1.
	Generation uint32           `json:"generation"`
	Epoch      uint32           `json:"epoch"`
	Recipients []VaultRecipient `json:"recipients"`
	// Problems say what is not as it should be on the storage units.
	Problems []string `json:"problems"`
}

// EscrowResult is what was proved of an identity, from the storage units alone.
type EscrowResult struct {
	// OK: the identity opens the newest keys, and with them what was looked at
	// decodes.
	OK         bool           `json:"ok"`
	Vault      VaultName      `json:"vault"`
	KeyID      string         `json:"keyId"`
	Recipient  VaultRecipient `json:"recipient"`
	Generation uint32         `json:"generation"`
	Epoch      uint32         `json:"epoch"`
	// Copies is how many storage units hold what the identity needs, of Want.
	Copies int `json:"copies"`
	Want   int `json:"want"`
	// Checked are the objects that were decoded as proof.
	Checked  []string `json:"checked"`
	Problems []string `json:"problems"`
}
