"""The dashboard: pages for operators, rendered by the server, with live updates.

`routes` has the handlers. The other modules turn rows of the ledger into the values that the templates show; their
functions are pure where their names begin with `view`. `live` sends the updates. `rendering` fills the templates.
"""
