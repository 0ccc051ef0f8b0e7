"""Trying plugins' classes with the settings that they were given: nothing of them is started by that."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial
from typing import Any, TypeVar

from dicom_adapter.config.model import Config
from dicom_adapter.errors import Refused, describe_failure
from dicom_adapter.hookspecs import Catalogue
from dicom_adapter.submitter import Submitter, SubmitterContext
from dicom_adapter.workers import TookTooLong, call_within

PLUGIN_SECONDS = 10.0  # that a constructor, or the description of settings, may take: they have nothing to wait for

T = TypeVar("T")


def make_submitter(config: Config, catalogue: Catalogue, name: str) -> Submitter[Any]:
    """The submitter of the table [submitters.<name>], not yet open. Raises Refused with the reason."""
    table = config.submitters[name]
    folder = config.storage.path / "submitters" / name.encode().hex()
    context = SubmitterContext(name=name, data_folder=folder)
    made: Submitter[Any] = _ask_plugin(
        f"submitter '{name}' cannot be made", partial(catalogue.submitters[table.type], table.settings, context)
    )
    return made


def describe_settings(config: Config, catalogue: Catalogue, ae_title: str) -> str:
    """What the processor of an AE title will do, in its own words. Raises Refused with the reason."""
    table = config.ae_titles[ae_title]
    return _ask_plugin(
        "its processor cannot describe its settings",
        partial(catalogue.processors[table.processor].describe, table.settings),
    )


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
