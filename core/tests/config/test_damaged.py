"""The ledger of a configuration file that is not TOML."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from dicom_adapter.config.damaged import readable_ledger_url
from dicom_adapter.config.load import ledger_url, syntax_problems

FOLDER = Path("/etc")
TEXT = """\
[dicom]
port = 104
[storage] # where the instances are kept
path = "data"
reserve = "5 GB"
[submitters.platform]
type = "memory"
path = "platform"
[ledger]
url = "sqlite:////var/lib/ledger.sqlite"
history-days = 30
[ae-titles.LUNG.settings]
pipeline-lung = "1"
"""
LINES = TEXT.splitlines()
NEEDED = {LINES[2], LINES[3], LINES[8], LINES[9]}  # the data folder and the ledger


@pytest.mark.parametrize(
    ("text", "url"),
    [
        ('[storage]\npath = "data"\n[dicom\nport = 104', "sqlite:////etc/data/ledger.sqlite"),
        ('[storage]\npath = "data"\n[submitters.x\npath = "other"', "sqlite:////etc/data/ledger.sqlite"),
        ('storage.path = "/data"\nx = ', "sqlite:////data/ledger.sqlite"),
        ('storage = { path = "/data" }\nx = ', "sqlite:////data/ledger.sqlite"),
        ('x = \n[storage]\npath = "/data"\n[ledger]\nurl = "sqlite:////ledger"', "sqlite:////ledger"),
        ('[storage]\npath = "data\n', None),
        ('[storage]\npath = "data"\n[storage]\npath = "other"', None),
        ('[storage\npath = "data"', None),
        ("path = 5\n[storage]\npath = 7\nx = ", None),
        ("", None),
    ],
)
def test_the_ledger_is_found_from_the_lines_that_are_toml(text: str, url: str | None) -> None:
    """None: no valid line names the data folder, or two lines name different folders."""
    assert syntax_problems(text) or not text
    assert url == readable_ledger_url(text, folder=FOLDER)


@settings(max_examples=200, deadline=None)
@given(number=st.integers(0, len(LINES) - 1), damage=st.text(min_size=1, max_size=20), keep=st.booleans())
@example(number=1, damage='"', keep=True)
@example(number=5, damage="[", keep=False)
def test_a_damaged_line_does_not_change_the_ledger(number: int, damage: str, keep: bool) -> None:
    """The damage is a text that replaces a line or is appended to it, but not to the lines that name the ledger."""
    # The damage must not be a table, a dotted key, a value or a new line: each of them may name another ledger.
    if LINES[number] in NEEDED or any(mark in damage for mark in "[.=\n\r\x0b\x0c\x1c\x1d\x1e\x85\u2028\u2029"):
        return
    damaged = list(LINES)
    damaged[number] = f"{LINES[number]}{damage}" if keep else damage
    url = readable_ledger_url("\n".join(damaged), folder=FOLDER)
    is_header = LINES[number].startswith("[")  # without it, `path` of the submitter contradicts `path` of the storage
    assert url in ({ledger_url(TEXT, folder=FOLDER)} | ({None} if is_header else set()))
