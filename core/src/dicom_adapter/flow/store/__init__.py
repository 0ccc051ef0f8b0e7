"""Step 2, store: make each data set durable and enter its row in the ledger. Begin with `commit`."""
