"""Load a configuration file: return the configuration, or all problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import tomli
from attrs import frozen
from cattrs import BaseValidationError

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config.convert import make_converter
from dicom_adapter.config.model import Config, LedgerConfig, PluginsConfig, default_ledger_url
from dicom_adapter.config.plugin_tables import PluginTables
from dicom_adapter.config.problems import ConfigProblem, ConfigProblemKind, Where, flatten, format_value
from dicom_adapter.config.suggest import listed, suggestion


@frozen(kw_only=True)
class Loaded:
    """Result of loading a configuration file."""

    config: Config | None  # None if any problem is INVALID
    problems: tuple[ConfigProblem, ...] = ()  # in the order of the file


def load(text: str | bytes, *, folder: Path, catalogue: Catalogue) -> Loaded:
    """Load a configuration whose relative paths start at `folder`. Reads no files except the files of secrets."""
    try:
        document = _parse(text)
    except ValueError as error:
        return Loaded(config=None, problems=(ConfigProblem(message=str(error)),))
    return structure(document, folder=folder, catalogue=catalogue)


def structure(document: Mapping[str, Any], *, folder: Path, catalogue: Catalogue) -> Loaded:
    """Convert a parsed TOML document to a configuration."""
    converter = make_converter(folder.absolute())
    plugin_tables = PluginTables(catalogue, converter)
    found = [*_submitter_problems(document), *_certificate_problems(document), *plugin_tables.problems(document)]
    config = None
    try:
        config = converter.structure(document, Config)
    except BaseValidationError as group:
        found += [error.problem(document) for error in flatten(group)]
    if any(problem.kind is ConfigProblemKind.INVALID for problem in found):
        config = None
    return Loaded(config=config, problems=tuple(sorted(found, key=lambda problem: _position(document, problem.where))))


def plugin_settings(text: str | bytes) -> PluginsConfig:
    """Return the table [plugins], or its defaults if it is invalid; `load` reports the problems.

    This table is read before all others, because `load` needs the plugins, and disabled plugins must not be loaded.
    """
    try:
        found: PluginsConfig = make_converter(Path()).structure(_parse(text).get("plugins", {}), PluginsConfig)
    except (ValueError, TypeError, BaseValidationError):
        return PluginsConfig()
    return found


def ledger_url(text: str, *, folder: Path) -> str | None:
    """Return the URL of the ledger without loading any plugin; None if the configuration is invalid."""
    tables, converter = tables_of(text), make_converter(folder)
    try:
        path: Path = converter.structure(tables["storage"]["path"], Path)
        ledger: LedgerConfig = converter.structure(tables.get("ledger", {}), LedgerConfig)
    except (KeyError, ValueError, TypeError, BaseValidationError):
        return None
    return ledger.url or default_ledger_url(path)


def tables_of(text: str) -> dict[str, Any]:
    """Return the parsed document without any conversion, or an empty document if `text` is not TOML."""
    try:
        return _parse(text)
    except ValueError:
        return {}


def _parse(text: str | bytes) -> dict[str, Any]:
    if isinstance(text, bytes):
        text = _decode(text)
    try:
        return tomli.loads(text.removeprefix("\ufeff"))
    except RecursionError:
        raise ValueError("the file is not usable: its lists or tables are nested too deeply") from None
    except ValueError as error:  # raised by tomli, and by Python for integers of thousands of digits
        lines = text.splitlines() or [""]
        end = f"at the end of the file, line {len(lines)}, column {len(lines[-1]) + 1}"
        raise ValueError(f"the file is not TOML: {str(error).replace('at end of document', end)}") from None


def _decode(data: bytes) -> str:
    try:
        return data.decode("utf-8")
    except UnicodeDecodeError as error:
        line = data.count(b"\n", 0, error.start) + 1
        raise ValueError(f"the file is not UTF-8: see line {line}, byte {data[error.start]:#04x}") from None


def _submitter_problems(document: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """Yield a problem for each AE title without a valid submitter.

    The document is read before its conversion, to report these problems together with those of the converter.
    """
    submitters, ae_titles = document.get("submitters"), document.get("ae-titles")
    if not submitters or not isinstance(submitters, dict):
        return  # the converter reports this problem
    default = document.get("default-submitter")
    yield from _unknown_submitter(("default-submitter",), default, submitters)
    for title, table in ae_titles.items() if isinstance(ae_titles, dict) else ():
        own = table.get("submitter") if isinstance(table, dict) else None
        yield from _unknown_submitter(("ae-titles", title, "submitter"), own, submitters)
        if own is None and default is None and len(submitters) > 1:
            message = f"is missing: name one of {listed(submitters)}, or set default-submitter"
            yield ConfigProblem(where=("ae-titles", title, "submitter"), message=message)


def _unknown_submitter(where: Where, name: object, submitters: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    if isinstance(name, str) and name not in submitters:
        message = (
            f"must name a [submitters.<name>] table{suggestion(name, submitters)} (there are: {listed(submitters)})"
        )
        yield ConfigProblem(where=where, message=message, value=format_value(name))


def _certificate_problems(document: Mapping[str, Any]) -> Iterator[ConfigProblem]:
    """Yield a problem for each caller that must have a certificate, if no client certificates are requested."""
    dicom, ae_titles = document.get("dicom"), document.get("ae-titles")
    tls = dicom.get("tls") if isinstance(dicom, dict) else None
    if isinstance(tls, dict) and "client-ca" in tls:
        return
    for title, table in ae_titles.items() if isinstance(ae_titles, dict) else ():
        callers = table.get("allowed-callers") if isinstance(table, dict) else None
        for index, caller in enumerate(callers if isinstance(callers, list) else ()):
            if isinstance(caller, dict) and "certificate" in caller:
                where = ("ae-titles", title, "allowed-callers", index, "certificate")
                message = "needs a [dicom.tls] table with client-ca: without it no client certificates are requested"
                yield ConfigProblem(where=where, message=message)


def _position(document: Any, where: Where) -> list[int]:
    """Return the position of a value in the file: the index of its key at each level. A missing key is at the end."""
    position = []
    for step in where:
        keys: list[Any] = list(document) if isinstance(document, dict) else []
        if isinstance(step, int) or step not in keys:
            position.append(step if isinstance(step, int) else len(keys))
            document = document[step] if isinstance(step, int) else None
        else:
            position.append(keys.index(step))
            document = document[step]
    return position
