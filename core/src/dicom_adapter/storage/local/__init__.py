"""The storage backend `local`: instances in segments."""
