"""Data sets and Part 10 files (PS3.5, PS3.10), without any network."""
