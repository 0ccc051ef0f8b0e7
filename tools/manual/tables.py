"""The tables of keys in `docs/configuration.md`: their rows and their positions."""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from typing import Any, get_args

import attrs

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.api.settings import HELP, PREFIX
from dicom_adapter.config import Config
from dicom_adapter.config.tables import key_of, settable
from dicom_adapter.plugins.registry import discover
from manual.words import default_words, rule_words, type_words

HEAD = "| key | type | default | rule | meaning |\n|---|---|---|---|---|\n"
TABLE = re.compile(r"^\| key \| type \|.*\n(?:\|.*\n)*", re.MULTILINE)
HEADING = re.compile(r"^#+ +(.*)\n", re.MULTILINE)
TOP = "The top of the file"
NAMES = {
    "submitters": r"submitters.\<name\>",
    "notifications": r"notifications.\<name\>",
    "ae-titles": r"ae-titles.\<AE title\>",
}


def updated(text: str) -> str:
    """Return the page with updated tables. Raises ValueError that names a missing section or table."""
    for heading, classes in sections(headings(text)).items():
        text = _with_tables(text, heading, classes)
    return text


def headings(text: str) -> list[str]:
    """Return the headings of a page."""
    return HEADING.findall(text)


def sections(known: list[str]) -> Mapping[str, list[type]]:
    """Return the classes whose keys each section lists, by the heading of the section.

    Classes without a section are in the section of their parent.
    """
    found: dict[str, list[type]] = {TOP: [Config]}
    for key, cls in tables_in(Config):
        name = NAMES.get(key, key)
        found[f"[{name}]"] = [cls]
        for inner, nested in tables_in(cls):
            heading = f"[{name}.{inner}]"
            found.setdefault(heading if heading in known else f"[{name}]", []).append(nested)
    for heading, cls in _plugins(discover().catalogue()):
        found[heading] = [cls, *(nested for _, nested in tables_in(cls))]
    return found


def _plugins(catalogue: Catalogue) -> Iterator[tuple[str, type]]:
    """Return the plugins that have keys, by the headings of their sections."""
    kinds: Sequence[tuple[str, Mapping[str, Any]]] = (
        ("type", catalogue.submitters),
        ("type", catalogue.notifiers),
        ("processor", catalogue.processors),
        ("backend", catalogue.storage_backends),
    )
    for key, plugins in kinds:
        for name, plugin in plugins.items():
            if settable(plugin.settings_type):
                yield f'{key} = "{name}"', plugin.settings_type


def tables_in(cls: type) -> Iterator[tuple[str, type]]:
    """Yield the tables that a table may contain, by their keys."""
    for field in settable(cls):
        for part in _parts(field.type):
            if isinstance(part, type) and attrs.has(part):
                yield key_of(field), part


def _parts(type_: Any) -> Iterator[Any]:
    yield type_
    for argument in get_args(type_):
        yield from _parts(argument)


def table(cls: type) -> str:
    """Return a table with a row for each key."""
    return HEAD + "".join(row(field) for field in settable(cls))


def row(field: attrs.Attribute[Any]) -> str:
    """Return the row of a key: its type, default, rule and meaning."""
    type_ = get_args(field.type)[1] if field.metadata.get(PREFIX) else field.type  # of each key with the prefix
    cells = (f"`{key_of(field)}`", type_words(type_), default_words(field), rule_words(field), field.metadata[HELP])
    return f"| {' | '.join(cells)} |\n"


def _with_tables(text: str, heading: str, classes: list[type]) -> str:
    parts = HEADING.split(text)  # text before, heading, section, heading, section, …
    if heading not in parts[1::2]:
        raise ValueError(f"docs/configuration.md has no section '{heading}': add it, with a table of its keys")
    start = text.index(f" {heading}\n")
    section = parts[parts.index(heading) + 1]
    if len(TABLE.findall(section)) != len(classes):
        names = ", ".join(cls.__name__ for cls in classes)
        raise ValueError(f"docs/configuration.md, section '{heading}', needs a table of keys for each of {names}")
    wanted = iter(classes)
    written = TABLE.sub(lambda _: table(next(wanted)), section)
    return text[:start] + text[start:].replace(section, written, 1)
