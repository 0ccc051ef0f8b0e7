"""Step 5, submit: the jobs of each submitter, step by step."""
