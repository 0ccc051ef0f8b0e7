"""Guarded calls of plugins: a time limit and an error boundary, so that a faulty plugin does not stop the host.

The code for turns, for the steps of jobs and for observers has its own error boundaries.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from contextlib import suppress
from functools import partial
from ipaddress import ip_address
from typing import Any, TypeVar

import structlog

from dicom_adapter.api.errors import DicomAdapterError, Refused, describe_failure
from dicom_adapter.api.notifier import Notifier, NotifierContext
from dicom_adapter.api.server import Server
from dicom_adapter.api.submitter import Submitter, SubmitterContext
from dicom_adapter.config.model import Config
from dicom_adapter.plugins.registry import NOTIFIER, PROCESSOR, SUBMITTER, PluginInfo, Plugins
from dicom_adapter.runtime.deadline import TookTooLong, call_within
from dicom_adapter.runtime.parts import Part, PartKind, lane_part, submitter_part

log = structlog.get_logger("dicom_adapter.host")

CALL_SECONDS = 10.0  # limit for constructors and methods that describe settings: none of them may wait for anything
CLOSE_SECONDS = 5.0  # limit for closing one part; a stop of the service has half a minute for all parts

T = TypeVar("T")


def close_within(part: Part, close: Callable[[], None]) -> None:
    """Call `close` of a part. Log a failure, and abandon a call that does not return within CLOSE_SECONDS."""
    try:
        call_within(CLOSE_SECONDS, close)
    except Exception as failure:  # noqa: BLE001 - the other parts must be closed after any failure
        log.warning("part_close_failed", part=str(part), error=_message(failure))


def log_hook_failure(plugin: PluginInfo, hook: str, failure: BaseException) -> None:
    """Log that the results of a plugin's hook are not used."""
    log.error("hook_failed", plugin=str(plugin), hook=hook, error=_message(failure))


def _message(failure: BaseException) -> str:
    """Return the message of the adapter's own error, but type and location of others: they may contain patient data."""
    return str(failure) if isinstance(failure, (TookTooLong, InvalidHookResult)) else describe_failure(failure)


class InvalidHookResult(DicomAdapterError):
    """A hook returned an object of a wrong type."""


def _check_server(result: Any) -> None:
    if not isinstance(result, Server) or not isinstance(getattr(result, "name", None), str):
        kind = type(result).__name__
        raise InvalidHookResult(f"it returned a {kind}; it must return objects that extend Server and have a `name`")


def _check_nothing(_result: Any) -> None:
    """Accept any object: HTTP handlers are checked when they are mounted."""


# By hook, a function that raises if the hook has returned an invalid object.
RESULT_CHECKS = {"dicom_adapter_servers": _check_server, "dicom_adapter_http": _check_nothing}


def make_submitter(config: Config, plugins: Plugins, name: str) -> Submitter[Any]:
    """Construct the submitter of the table [submitters.<name>], not yet open. Raises Refused with the reason."""
    table = config.submitters[name]
    folder = config.storage.path / "submitters" / name.encode().hex()
    context = SubmitterContext(name=name, data_folder=folder)
    factory = plugins.factory(SUBMITTER, table.type, submitter_part(name))
    submitter: Submitter[Any] = _call_plugin(
        f"submitter '{name}' cannot be created", partial(factory, table.settings, context)
    )
    return submitter


def make_notifier(config: Config, plugins: Plugins, name: str) -> Notifier[Any]:
    """Construct the notifier of the table [notifications.<name>]. Raises Refused with the reason."""
    table = config.notifications[name]
    factory = plugins.factory(NOTIFIER, table.type, Part(PartKind.NOTIFICATION, name))
    notifier: Notifier[Any] = _call_plugin(
        f"notification '{name}': its notifier cannot be created",
        partial(factory, table.settings, NotifierContext(name=name)),
    )
    return notifier


def make_submitters(config: Config, plugins: Plugins) -> dict[str, Submitter[Any]]:
    """Construct all submitters that can be constructed, by name, not yet open."""
    made = {}
    for name, table in config.submitters.items():
        if not table.unavailable:
            with suppress(Refused):
                made[name] = make_submitter(config, plugins, name)
    return made


def list_pipelines(name: str, submitter: Submitter[Any]) -> frozenset[str] | None:
    """Return the ids of all pipelines of a submitter, or None if it does not know them. Raises Refused."""
    problem = f"submitter '{name}' cannot list its pipelines"
    ids: object = _call_plugin(problem, submitter.pipeline_ids)
    if ids is None:
        return None
    if isinstance(ids, str) or not isinstance(ids, Collection) or not all(isinstance(one, str) for one in ids):
        raise Refused(f"{problem}: pipeline_ids() must return strings, or None")
    return frozenset(ids)


def describe_settings(config: Config, plugins: Plugins, ae_title: str) -> str:
    """Return the processor's own description of the settings of an AE title. Raises Refused with the reason."""
    table = config.ae_titles[ae_title]
    problem = "its processor cannot describe its settings"
    factory = plugins.factory(PROCESSOR, table.processor, lane_part(ae_title))
    description: object = _call_plugin(
        problem, partial(factory.caller, "describe", factory.cls.describe, table.settings)
    )
    if not isinstance(description, str):
        raise Refused(f"{problem}: describe() returned a {type(description).__name__}; it must return a string")
    return description


def list_notices(config: Config, plugins: Plugins, ae_title: str) -> list[str]:
    """Return the processor's notices about the settings of an AE title. Raises Refused with the reason."""
    table = config.ae_titles[ae_title]
    problem = "its processor cannot list its notices"
    factory = plugins.factory(PROCESSOR, table.processor, lane_part(ae_title))
    notices: list[object] = _call_plugin(
        problem, lambda: list(factory.caller("notices", factory.cls.notices, table.settings))
    )
    texts = [notice for notice in notices if isinstance(notice, str)]
    if len(texts) != len(notices):
        raise Refused(f"{problem}: notices() must return strings")
    return texts


def list_addresses(config: Config, plugins: Plugins, ae_title: str) -> list[tuple[str, int]]:
    """Return the addresses of the plugin's servers for an AE title. Raises Refused with the reason."""
    table = config.ae_titles[ae_title]
    problem = "its processor cannot list the addresses of servers"
    factory = plugins.factory(PROCESSOR, table.processor, lane_part(ae_title))
    addresses: list[Any] = _call_plugin(
        problem, lambda: list(factory.caller("listening_addresses", factory.cls.listening_addresses, table.settings))
    )
    try:
        return [_checked_address(*address) for address in addresses]
    except (TypeError, ValueError):
        raise Refused(f"{problem}: listening_addresses() must return pairs of an IP address and a port") from None


def _checked_address(bind: str, port: int) -> tuple[str, int]:
    if port not in range(2**16):
        raise ValueError("not a port")
    return str(ip_address(bind)), int(port)


def _call_plugin(problem: str, call: Callable[[], T]) -> T:
    """Return the result of `call`. Raises Refused, with `problem` and the reason, if `call` fails or takes too long."""
    try:
        return call_within(CALL_SECONDS, call)
    except KeyboardInterrupt:  # the user of a command pressed Ctrl-C
        raise
    except TookTooLong as failure:
        raise Refused(f"{problem}: {failure}") from None
    except BaseException as failure:  # noqa: BLE001 - may be anything, also SystemExit; its message may hold a secret
        raise Refused(f"{problem}: {describe_failure(failure)}") from None
