"""The service, as the handlers of the HTTP server use it."""

from __future__ import annotations

from collections.abc import Callable

from attrs import frozen

from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.resources import Resources


@frozen(kw_only=True, eq=False)
class Site:
    """The objects of the host process that handlers read and change. All of them are thread-safe."""

    config: Callable[[], Config]  # the configuration that is in use now
    resources: Resources
    plugins: Plugins
    path: str  # path of the configuration file; "": unknown
