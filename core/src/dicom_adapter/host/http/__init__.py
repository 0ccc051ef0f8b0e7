"""The HTTP server in the host process: health, the routes of plugins, and their description in OpenAPI.

`guard` decides who may come in, `problems` how errors are answered, `health` what the service says of itself, `app`
puts them together, `server` runs it. All but `server` can be used without a socket.
"""

from dicom_adapter.host.http.app import Mounts, make_app
from dicom_adapter.host.http.health import Health, examine
from dicom_adapter.host.http.server import HttpServer

__all__ = ["Health", "HttpServer", "Mounts", "examine", "make_app"]
