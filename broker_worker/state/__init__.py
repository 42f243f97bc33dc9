"""The broker's own files: what a queue that forgets must not undo."""
