package inside

// addFiles adds the operations on files.
func addFiles(s *server, w *world) {}
