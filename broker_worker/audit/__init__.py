"""The audit on disk and on its stream."""
