"""Common parts of all processes: clock, workers, watch, logs, channel and data folder."""
