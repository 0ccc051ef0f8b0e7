"""The admin API: the routes below `/api`, with which programs and pages do what the commands do."""
