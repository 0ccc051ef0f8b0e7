"""Step 4, process: the lane of each AE title delivers instances to its processor. Begin with `lane`."""
