"""The HTTP side of the host: the server, access to it, and what it offers to operators.

`http` runs the server. `access` decides who makes a request and what it may do. `admin` provides the routes below
`/api`. The host mounts all of them if the configuration has a table `[http]`, and imports this package only then.
"""
