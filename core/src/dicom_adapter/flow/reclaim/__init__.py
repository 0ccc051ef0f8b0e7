"""Step 6, reclaim: delete stored objects and history that are not needed; limit the space of held instances."""
