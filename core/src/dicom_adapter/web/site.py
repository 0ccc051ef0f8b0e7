"""The service, as the handlers of the HTTP server use it."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from attrs import frozen

from dicom_adapter.api.certificates import Certificate
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import Plugins
from dicom_adapter.runtime.resources import Resources
from dicom_adapter.runtime.shared_counts import CountedSeries


@frozen(kw_only=True, eq=False)
class Site:
    """The objects of the host process that handlers read and change. All of them are thread-safe."""

    config: Callable[[], Config]  # the configuration that is in use now
    resources: Resources
    plugins: Plugins
    path: str  # path of the configuration file; "": unknown
    certificates: Callable[[], Sequence[Certificate]] = lambda: ()  # those that connections depend on
    read_counts: Callable[[], Sequence[CountedSeries]] = lambda: ()  # what all processes of the service have counted
