"""Step 5, submit: each submitter submits jobs to its platform. Begin with `steps`, which has the table of states."""
