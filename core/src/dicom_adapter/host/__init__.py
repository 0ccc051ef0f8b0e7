"""The host process: notify, process, submit and reclaim."""
