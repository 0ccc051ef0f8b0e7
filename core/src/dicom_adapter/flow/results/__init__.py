"""Step 6 (`results`) of the flow: collect the outputs of a succeeded job, check them, and create delivery jobs."""
