"""What operators see, as JSON values: the same for the option `--json` of commands and for the admin API."""
