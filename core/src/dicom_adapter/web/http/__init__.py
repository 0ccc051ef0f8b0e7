"""The HTTP server in the host process: health, the routes of plugins, and their description in OpenAPI.

`guard` controls access, and uses `web_pages` to recognize requests of web pages. `strict_requests` has the rules for
the requests of all routes. `problems` creates the responses to errors. `health` provides the route `GET /health`.
`app` combines these modules into an ASGI application. `connection` limits each connection, and `server` runs the
application. Only `connection` and `server` need a socket.
"""

from dicom_adapter.web.http.app import Mounts, make_app
from dicom_adapter.web.http.health import Health, examine
from dicom_adapter.web.http.server import HttpServer

__all__ = ["Health", "HttpServer", "Mounts", "examine", "make_app"]
