"""Step 6 (`reclaim`) of the flow: delete stored objects and history that are not needed any more, and limit space."""
