"""Step 4 (`process`) of the flow: the lane of each AE title delivers instances to its processor. Read `lane` first."""
