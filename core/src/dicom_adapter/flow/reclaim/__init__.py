"""Step 6, reclaim: delete stored objects and history that are not needed any more, and limit the space in use."""
