"""The receiver process: it runs the steps association and store. Begin with `receiver`."""
