"""Plugins: discovery, limits, measurement and isolation."""
