package vault

// CheapPassphrases makes passphrases cost next to nothing, for tests.
func CheapPassphrases() { scryptCost = 2 }
