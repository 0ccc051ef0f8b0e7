"""Load a configuration file: return the configuration, or all problems."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

from attrs import evolve, frozen
from cattrs import BaseValidationError

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config.convert import make_converter
from dicom_adapter.config.model import Config, LedgerConfig, PluginsConfig, default_ledger_url
from dicom_adapter.config.places import Places
from dicom_adapter.config.plugin_tables import PluginTables
from dicom_adapter.config.problems import (
    ConfigProblem,
    ConfigProblemKind,
    ConversionError,
    Where,
    flatten,
    format_value,
    value_at,
)
from dicom_adapter.config.references import check_references, unknown_submitter
from dicom_adapter.config.suggest import listed
from dicom_adapter.config.tables import UnknownKeyError
from dicom_adapter.config.toml_text import parse


@frozen(kw_only=True)
class Loaded:
    """Result of loading a configuration file."""

    config: Config | None  # None if any problem is INVALID
    problems: tuple[ConfigProblem, ...] = ()  # in the order of the file


def load(text: str | bytes, *, folder: Path, catalogue: Catalogue) -> Loaded:
    """Load a configuration whose relative paths start at `folder`. Reads no files except the files of secrets."""
    try:
        document = parse(text)
    except ValueError as error:
        return Loaded(config=None, problems=(ConfigProblem(message=str(error)),))
    return structure(document, folder=folder, catalogue=catalogue)


def structure(document: Mapping[str, Any], *, folder: Path, catalogue: Catalogue) -> Loaded:
    """Convert a parsed TOML document to a configuration."""
    converter = make_converter(folder.absolute())
    check_references(converter, document)
    plugin_tables = PluginTables(catalogue, converter)
    found = [*_submitter_problems(document), *_certificate_problems(document), *plugin_tables.problems(document)]
    config = None
    try:
        config = converter.structure(document, Config)
    except BaseValidationError as group:
        places = Places(dict(plugin_tables.classes(document)))
        found += [_explained(error, places, document).problem(document) for error in flatten(group)]
    if any(problem.kind is ConfigProblemKind.INVALID for problem in found):
        config = None
    return Loaded(config=config, problems=tuple(sorted(found, key=lambda problem: _position(document, problem.where))))


def _explained(error: ConversionError, places: Places, document: Mapping[str, Any]) -> ConversionError:
    """Return the error. For an unknown key that another table has, the message names that table."""
    if error.kind is not UnknownKeyError:
        return error
    *table, key = map(str, error.where)
    explanation = places.explain(tuple(table), key, value_at(document, error.where))
    return evolve(error, message=explanation or error.message)


def plugin_settings(text: str | bytes) -> PluginsConfig:
    """Return the table [plugins], or its defaults if it is invalid; `load` reports the problems.

    This table is read before all others, because `load` needs the plugins, and disabled plugins must not be loaded.
    """
    try:
        found: PluginsConfig = make_converter(Path()).structure(parse(text).get("plugins", {}), PluginsConfig)
    except (ValueError, TypeError, BaseValidationError):
        return PluginsConfig()
    return found


def ledger_url(text: str, *, folder: Path) -> str | None:
    """Return the URL of the ledger without loading any plugin; None if `storage.path` or `ledger.url` is invalid."""
    return ledger_url_of(tables_of(text), folder=folder)


def ledger_url_of(tables: Mapping[str, Any], *, folder: Path) -> str | None:
    """Return the URL of the ledger from a parsed document; None if `storage.path` or `ledger.url` is invalid."""
    converter = make_converter(folder)
    try:
        path: Path = converter.structure(tables["storage"]["path"], Path)
        own = {key: value for key, value in tables.get("ledger", {}).items() if key == "url"}
        ledger: LedgerConfig = converter.structure(own, LedgerConfig)
    except (AttributeError, KeyError, ValueError, TypeError, BaseValidationError):
        return None
    return ledger.url or default_ledger_url(path)


def syntax_problems(text: str) -> list[str]:
    """Return why a text is not TOML; empty if it is TOML."""
    try:
        parse(text)
    except ValueError as error:
        return [str(error)]
    return []


def tables_of(text: str) -> dict[str, Any]:
    """Return the parsed document without any conversion, or an empty document if `text` is not TOML."""
    try:
        return parse(text)
    except ValueError:
        return {}


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
        yield ConfigProblem(where=where, message=unknown_submitter(name, submitters), value=format_value(name))


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
