"""Find the tables to which a misplaced key belongs, for an error message."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import TypeAlias

from attrs import frozen

from dicom_adapter.config.tables import key_of, nested_class, sets_field, settable
from dicom_adapter.config.toml_text import toml_name

Table: TypeAlias = tuple[str, ...]  # path of a table

NAMED = {"ae-titles": "<AE title>", "submitters": "<name>"}  # tables that contain a table for each name
MOST_TABLES = 3  # maximum number of tables that a message names


@frozen
class Places:
    """The tables of one configuration file, with the classes whose fields their keys set."""

    classes: Mapping[Table, Sequence[type]]

    def explain(self, table: Table, key: str, value: object) -> str:
        """Return where an unknown key belongs, for a message; "" if no table has such a key."""
        tables = self._nearest(table, key)
        if tables:
            return f"is not a key of this table; it belongs {' or '.join(tables[:MOST_TABLES])}"
        if isinstance(value, dict) and len(table) == 2 and table[0] in NAMED:
            name = f"{table[1]}.{key}"
            return f'is not a key of this table; if the name is {name}, write [{table[0]}."{name}"], with quotes'
        return ""

    def _nearest(self, table: Table, key: str) -> list[str]:
        """Return the tables that have this key.

        If tables of the same AE title or submitter, or below the same first table, have the key, return only these.
        """
        found = [other for other, classes in self.classes.items() if any(sets_field(cls, key) for cls in classes)]
        related = [other for other in found if _component(other) == _component(table)]
        others = [other for other in found if other[:1] != table[:1]]
        return list(dict.fromkeys(_written(other, table) for other in related or others))


def tables_below(cls: type, table: Table = ()) -> Iterator[tuple[Table, type]]:
    """Yield the table of a settings class, and the tables below it that exist once."""
    yield table, cls
    for field in settable(cls):
        nested = nested_class(field.type)
        if nested is not None:
            yield from tables_below(nested, (*table, key_of(field)))


def _component(table: Table) -> Table:
    """Return the path of the AE title or submitter to which the table belongs; for other tables, the first name."""
    return table[:2] if table[:1] and table[0] in NAMED else table[:1]


def _written(table: Table, unknown: Table) -> str:
    """Return the place of a table, for a message about a key in the table `unknown`."""
    if not table:
        return "at the beginning of the file, before the first table"
    if table[0] in NAMED and _component(table) != _component(unknown):
        return f"in [{'.'.join((table[0], NAMED[table[0]], *table[2:]))}]"
    return f"in [{toml_name(table)}]"
