"""What every process is made of: clock, workers, watch, logs, channel and data folder."""
