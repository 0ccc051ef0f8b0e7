"""JSON values of all objects that operators see: the same for the option `--json` of commands and for the admin API."""
