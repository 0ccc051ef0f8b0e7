"""The receiver process: runs steps 1 (association) and 2 (store) of the flow. Read `receiver` first."""
