"""The supervisor process: starts, watches and stops the host and the receivers. Read `supervisor` first."""
