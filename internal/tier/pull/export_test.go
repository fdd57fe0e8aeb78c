package pull

// SetRoom lets sessions make do with less room, in bytes.
func SetRoom(reserved, low int64) { ahead, lowRoom = reserved, low }
