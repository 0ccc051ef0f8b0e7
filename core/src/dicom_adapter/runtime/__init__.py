"""Code that all processes share: clock, workers, watch, logs, channel and data folder."""
