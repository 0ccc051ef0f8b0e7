"""The storage backends that come with the core."""
