"""Access to the HTTP server: the principals that make requests, and their roles."""
