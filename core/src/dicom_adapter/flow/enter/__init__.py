"""Entry of rows: the one way by which rows of received instances are entered in the ledger. Read `entry` first."""
