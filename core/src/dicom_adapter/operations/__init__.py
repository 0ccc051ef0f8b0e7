"""The logic of the operators' commands, without their output: status, explain, audit, backup and others."""
