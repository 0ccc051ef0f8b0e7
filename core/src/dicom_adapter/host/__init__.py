"""The host process: it runs the steps notify, process, submit and reclaim. Begin with `host`."""
