"""From one configuration to the next while the service runs: what is different, what leaves, who takes it when."""
