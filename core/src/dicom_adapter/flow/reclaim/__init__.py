"""Step 6, reclaim: deletion of what is no longer needed, and limits of space."""
