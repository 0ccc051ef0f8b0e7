"""Step 2, store: a data set becomes durable, then gets its row."""
