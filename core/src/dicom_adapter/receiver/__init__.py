"""The receiver process: association and store."""
