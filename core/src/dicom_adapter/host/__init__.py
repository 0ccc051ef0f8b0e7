"""The host process: runs steps 3 (notify) to 7 (reclaim) of the flow. Read `host` first."""
