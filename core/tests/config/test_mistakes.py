"""Common mistakes in a configuration file: each message has the place, and the correction."""

from __future__ import annotations

from collections.abc import Callable

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from dicom_adapter.config import Loaded
from dicom_adapter.config.scalars import format_size
from dicom_adapter.config.toml_text import parse

Read = Callable[[str | bytes], Loaded]
Problems = Callable[[str], dict[str, str]]


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        (
            "[dicom]\n[ae-titles.CT SCANNER.settings] # 1st\n",
            'line 2: write [ae-titles."CT SCANNER".settings], because',
        ),
        ("[ae-titles.CT/1]\n", 'line 1: write [ae-titles."CT/1"], because'),
        ('[storage]\npath = "C:\\data"\n', "line 2: in double quotes, a backslash begins an escape sequence"),
        ('[storage]\npath = "C:\\Users"\n', "line 2: in double quotes, a backslash begins an escape sequence"),
        ('{"storage": {"path": "data"}}', "it looks like JSON. In TOML, "),
        ("# mine\n\nstorage:\n  path: data\n", "it looks like YAML. In TOML, "),
        ("---\nstorage:\n", "it looks like YAML. In TOML, "),
        ('[storage]\npath: "data"\n', "line 2: write path = … with an equals sign"),
        ("[log]\n[dicom]\n[log]\n", "the table [log] is defined in line 1, and again in line 3; merge both"),
        (
            "[ae-titles.\"A 1\"]\n[ae-titles.'A 1']\n",
            'table [ae-titles."A 1"] is defined in line 1, and again in line 2;',
        ),
        ("[[log]]\n[log]\n", "the table [log] is defined in line 1, and again in line 2;"),
        (
            "[ae-titles.X]\nsettings = {a = 1}\n[ae-titles.X.settings]\n",
            "the table [ae-titles.X.settings] is defined in line 2 with the key settings, and again in line 3;",
        ),
        (
            "[ae-titles.X]\nsettings.a = 1\n[ae-titles.X.settings]\n",
            "the table [ae-titles.X.settings] is defined in line 2 with the key settings.a, and again in line 3;",
        ),
        ("[http]\nport = 1\n[dicom]\nport = 1\nport = [\n2]\n", "the key port is set in line 4, and again in line 5;"),
        ("[storage]\nreserve = 5 GB\n", "line 2: write a text in straight double quotes"),
        ("[storage]\npath = “data”\n", "line 2: write a text in straight double quotes"),
        ("[log]\ncore-dumps = True\n", "line 2: write true in lower case"),
    ],
)
def test_a_text_that_is_not_toml_is_explained_with_its_line(read: Read, text: str, expected: str) -> None:
    """Verified to fail when the messages of the TOML parser are reported unchanged."""
    (problem,) = read(text).problems
    assert str(problem).startswith("the file is not TOML: ")
    assert expected in str(problem)


FRAGMENTS = ["[", "]", "[[", "a", ".", "'", '"', " ", "\n", "=", "1", "{", "}", "#", "\\", ":", "-", "[a]\n", "a = 1\n"]


@given(st.lists(st.sampled_from(FRAGMENTS), max_size=12).map("".join))
@settings(deadline=None, max_examples=300)
def test_any_text_is_a_document_or_one_value_error(text: str) -> None:
    try:
        assert isinstance(parse(text), dict)
    except ValueError as error:
        assert str(error).startswith("the file is not TOML: ")


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (
            "[ae-titles.LUNG]\ntimeout = 60",
            "timeout is not a key of this table; it belongs in [ae-titles.LUNG.settings]",
        ),
        ("submitter = 'clara'", "settings.submitter is not a key of this table; it belongs in [ae-titles.LUNG]"),
        ("[http]\nurl = 'x'", "http.url is not a key of this table; it belongs in [ledger]"),
        ("[dicom]\ncertificate = 'x'", "dicom.certificate is not a key of this table; it belongs in [dicom.tls]"),
        ("[log]\ndepth = 2", "log.depth is not a key of this table; it belongs in [storage]"),
        ("[log]\nport = 2", "log.port is not a key of this table; it belongs in [dicom] or in [http]"),
        ("[settings]", "settings is not a key of this table; it belongs in [ae-titles.<AE title>]"),
        (
            "[log]\npipeline-a = 'x'",
            "log.pipeline-a is not a key of this table; it belongs in [ae-titles.<AE title>.settings]",
        ),
        ("[log]\ntype = 'x'", "log.type is not a key of this table; it belongs in [submitters.<name>]"),
        ("[log]\ndefault-submitter = 'x'", "it belongs at the beginning of the file, before the first table"),
        ("[ae-titles.CT.1]\n", "'CT': 1 is not a key of this table; if the name is CT.1, write [ae-titles.\"CT.1\"]"),
    ],
)
def test_a_key_in_a_wrong_table_is_reported_with_its_table(problems: Problems, lines: str, expected: str) -> None:
    """The message does not show the value, which may be a secret.

    Verified to fail when only the keys of the same table are known.
    """
    assert any(expected in problem for problem in problems(lines).values()), problems(lines)


def test_a_path_with_an_escape_sequence_is_refused(read: Read, minimal: str) -> None:
    r"""`"C:\temp"` is TOML, with a tab. Verified to fail when control characters are accepted."""
    (problem,) = read(minimal.replace('"data"', r'"C:\temp"')).problems
    assert "must not contain control characters; in double quotes, a backslash begins" in str(problem)


@pytest.mark.parametrize(
    ("size", "expected"),
    [(5 * 10**9, "5 GB"), (16 * 2**20, "16 MiB"), (1500, "1500"), (2000, "2 kB"), (1024, "1 KiB"), (0, "0")],
)
def test_a_size_is_shown_as_people_write_it(size: int, expected: str) -> None:
    assert expected == format_size(size)
