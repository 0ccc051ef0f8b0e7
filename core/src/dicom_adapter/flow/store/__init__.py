"""Step 2 (`store`) of the flow: make each data set durable and enter its row in the ledger. Read `commit` first."""
