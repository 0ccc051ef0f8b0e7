"""What `dicom-adapter run` hands to the supervisor: a checked configuration and how to start the processes with it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

from attrs import asdict, evolve, frozen

from dicom_adapter.ledger.configurations import Configuration
from dicom_adapter.service.reload.snapshot import Snapshot


@frozen(kw_only=True)
class Blueprint:
    """What the processes are started with, the supervisor included.

    The supervisor loads no plugin and parses no configuration: it passes the text on, and knows the few values below.
    """

    path: str  # of the configuration file
    configuration: str  # the text of the file
    folder: str  # that relative paths in the text start from
    settings: Snapshot  # the values of the configuration, for comparisons
    log_style: str
    port: int | None  # to listen on instead of the configured one
    storage_plugin: str  # the entry point that a receiver loads; it needs no other
    receivers: int
    ledger_url: str
    is_durable: bool  # the rows of the ledger survive a power loss
    log_level: str
    trace_hooks: bool = False  # log every call of a plugin
    stop_with_stdin: bool = False  # stop, too, when standard input ends

    def to_json(self) -> dict[str, Any]:
        """Return the argument of `from_json`."""
        return asdict(self)

    @classmethod
    def from_json(cls, found: Mapping[str, Any]) -> Blueprint:
        """Return the blueprint that `to_json` was called on."""
        return cls(**{**found, "settings": Snapshot(**found["settings"])})

    def with_configuration(self, requested: Configuration) -> Blueprint:
        """Return the same blueprint with another configuration."""
        return evolve(
            self, configuration=requested.text, folder=requested.folder, settings=Snapshot(**requested.settings)
        )

    @property
    def drain_seconds(self) -> float:
        """Seconds that a stop waits for open associations."""
        return float(self.settings.service["dicom.drain-timeout"])
