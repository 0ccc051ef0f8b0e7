"""Step 5 (`submit`) of the flow: each submitter submits jobs to its platform. Read `steps` first."""
