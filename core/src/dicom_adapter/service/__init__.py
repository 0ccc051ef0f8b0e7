"""The supervisor process: it starts, watches and stops the host and the receivers. Begin with `supervisor`."""
