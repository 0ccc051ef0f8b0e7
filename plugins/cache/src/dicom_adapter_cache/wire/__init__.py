"""The gRPC API of the cache: `cache.proto`, and the modules that `tools/generate.py` of the repository makes of it."""
