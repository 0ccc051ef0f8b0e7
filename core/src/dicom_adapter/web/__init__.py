"""The HTTP side of the host: the server, access to it, and what it offers to operators.

`http` runs the server. `access` identifies the principal of a request and its role. `admin` provides the routes below
`/api`, `pages` the dashboard, and `metrics` the route `/metrics`. The host mounts all of them if the configuration has
a table `[http]`, and imports this package only then.
"""
