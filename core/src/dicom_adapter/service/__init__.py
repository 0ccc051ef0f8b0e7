"""The process that supervises host and receivers."""
