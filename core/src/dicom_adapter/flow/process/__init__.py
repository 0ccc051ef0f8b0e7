"""Step 4, process: the lane of each AE title and its processor."""
