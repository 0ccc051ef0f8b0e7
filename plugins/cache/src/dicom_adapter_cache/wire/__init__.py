"""The gRPC API of the cache: `cache.proto`, and the modules that `tools/generate.py` generates from it."""
