"""Reload: apply another configuration while the service runs.

`requests` receives a request, `plan` compares it with the running configuration (both as a `snapshot`), and `rollout`
applies it to the processes.
"""
