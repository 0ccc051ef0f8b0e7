"""Step 7 (`reclaim`) of the flow: delete stored objects and history that are not needed, and limit the used space."""
