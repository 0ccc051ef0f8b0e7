"""Reload: apply another configuration while the service runs."""
