package link

// Bound is how long a call waits for the store by default.
const Bound = bound

// Settle waits for what is under way in the background.
func (l *Link) Settle() { l.work.Wait() }

// Seal seals a record as the link does.
func (l *Link) Seal(key, at string, data []byte) ([]byte, error) {
	return l.boxes[0].Seal(key, at, data)
}
