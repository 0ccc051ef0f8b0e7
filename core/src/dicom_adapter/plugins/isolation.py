"""Where the host asks plugins for something, or has them let go of it: whatever they do, it goes on.

What they do on lanes, in steps of jobs and as observers is bounded there.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

import structlog

from dicom_adapter.api.errors import DicomAdapterError, Refused, describe_failure
from dicom_adapter.api.server import Server
from dicom_adapter.api.submitter import Submitter, SubmitterContext
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import PROCESSOR, SUBMITTER, PluginInfo, Plugins
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.parts import Part, lane_part, submitter_part

log = structlog.get_logger("dicom_adapter.host")

PLUGIN_SECONDS = 10.0  # that a constructor, or the description of settings, may take: they have nothing to wait for
CLOSE_SECONDS = 5.0  # that what a plugin has opened may take to be closed; a stop has half a minute for all of it

T = TypeVar("T")


def close_within(part: Part, close: Callable[[], None]) -> None:
    """Close what a part has open; what fails or hangs in that is left to itself."""
    try:
        call_within(CLOSE_SECONDS, close)
    except Exception as failure:  # noqa: BLE001 - whatever it is, others are closed after it
        log.warning("part_close_failed", part=str(part), error=_said(failure))


def hook_failed(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    """What a plugin brings by a hook is left out."""
    log.error("hook_failed", plugin=str(plugin), hook=hook, error=_said(failure))


def _said(failure: BaseException) -> str:
    """In the words of what is the adapter's own; others may quote a patient."""
    return str(failure) if isinstance(failure, (TookTooLong, WrongKind)) else describe_failure(failure)


class WrongKind(DicomAdapterError):
    """A hook gave something else than it should."""


def _is_server(brought: Any) -> None:
    if not isinstance(brought, Server) or not isinstance(getattr(brought, "name", None), str):
        kind = type(brought).__name__
        raise WrongKind(f"it gave a {kind}; it has to give objects that extend Server and have a `name`")


def _anything(_brought: Any) -> None:
    """Whether it can be mounted shows when it is."""


BROUGHT_CHECKS = {"dicom_adapter_servers": _is_server, "dicom_adapter_http": _anything}


def make_submitter(config: Config, plugins: Plugins, name: str) -> Submitter[Any]:
    """The submitter of the table [submitters.<name>], not yet open. Raises Refused with the reason."""
    table = config.submitters[name]
    folder = config.storage.path / "submitters" / name.encode().hex()
    context = SubmitterContext(name=name, data_folder=folder)
    make = plugins.maker(SUBMITTER, table.type, submitter_part(name))
    made: Submitter[Any] = _ask_plugin(f"submitter '{name}' cannot be made", partial(make, table.settings, context))
    return made


def describe_settings(config: Config, plugins: Plugins, ae_title: str) -> str:
    """What the processor of an AE title will do, in its own words. Raises Refused with the reason."""
    table = config.ae_titles[ae_title]
    otherwise = "its processor cannot describe its settings"
    processor = plugins.maker(PROCESSOR, table.processor, lane_part(ae_title))
    call = partial(processor.called, "describe", processor.cls.describe, table.settings)
    described: object = _ask_plugin(otherwise, call)
    if not isinstance(described, str):
        raise Refused(f"{otherwise}: describe() gave a {type(described).__name__}; it has to give a text")
    return described


def _ask_plugin(otherwise: str, call: Callable[[], T]) -> T:
    """What a plugin answers. Raises Refused, which begins with `otherwise`, when it raises or takes too long."""
    try:
        return call_within(PLUGIN_SECONDS, call)
    except KeyboardInterrupt:  # of whoever runs a command
        raise
    except TookTooLong as failure:
        raise Refused(f"{otherwise}: {failure}") from None
    except BaseException as failure:  # noqa: BLE001 - a plugin may raise anything, even leave; its message may quote a secret
        raise Refused(f"{otherwise}: {describe_failure(failure)}") from None
