"""A whole configuration: its values, and all of its problems at once."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from attrs import evolve

from dicom_adapter import JobPriority, PipelineReference
from dicom_adapter.api.errors import Refused
from dicom_adapter.config import CallerConfig, ConfigProblemKind, DicomConfig, Durability, Loaded, LogConfig

Read = Callable[[str | bytes], Loaded]
Problems = Callable[[str], dict[str, str]]

EXAMPLE = """
[dicom]
port = 11112                      # bind = "0.0.0.0", max-associations = 25

[storage]
backend = "local"
path = "/var/lib/dicom-adapter"   # the ledger is in this folder, too, unless [ledger] url is set
watermark-percent = 85
reserve = "5 GB"

[submitters.clara]                # a single submitter is the default; of several, default-submitter names the default
type = "remote"
endpoint = "clara.example:50051"

[ae-titles.LUNG]                  # processor is omitted: its default is "aetitle"
allowed-callers = ["CT1", { ae-title = "PACS", host = "10.0.0.0/24" }]
ignored-sop-classes = ["1.2.840.10008.5.1.4.1.1.7"]
overwrite-same-instance = false

[ae-titles.LUNG.settings]
priority = "normal"
timeout = 60
pipeline-lung = "8abf244aff7647989d4f6b3987a85759"
"""


def test_a_complete_example_is_read(read: Read) -> None:
    """Every setting of the example is read, and omitted settings have their defaults."""
    loaded = read(EXAMPLE)
    assert () == loaded.problems
    config = loaded.config
    assert config is not None
    assert DicomConfig() == config.dicom
    assert LogConfig() == config.log
    assert (Path("/var/lib/dicom-adapter"), 85, 5_000_000_000) == (
        config.storage.path,
        config.storage.watermark_percent,
        config.storage.reserve,
    )
    assert Durability.FSYNC is config.storage.durability
    assert 2 == config.storage.settings.depth
    assert "sqlite:////var/lib/dicom-adapter/ledger.sqlite" == config.ledger_url
    lung = config.ae_titles["LUNG"]
    assert (
        CallerConfig(ae_title="CT1"),
        CallerConfig(ae_title="PACS", host=ip_network("10.0.0.0/24")),
    ) == lung.allowed_callers
    assert ("1.2.840.10008.5.1.4.1.1.7",) == lung.ignored_sop_classes
    assert (JobPriority.NORMAL, 60) == (lung.settings.priority, lung.settings.timeout)
    assert {"lung": PipelineReference(id="8abf244aff7647989d4f6b3987a85759")} == lung.settings.pipelines
    assert "clara.example:50051" == config.submitters["clara"].settings.endpoint
    assert ("clara", "") == (config.submitter_for("LUNG"), config.unavailable("LUNG"))


def test_equal_texts_give_equal_configurations(read: Read) -> None:
    """A reload compares configurations to find what changed."""
    first, second, changed = (read(text).config for text in (EXAMPLE, EXAMPLE, EXAMPLE.replace("60", "61")))
    assert first == second
    assert first != changed
    assert first is not None
    assert changed is not None
    assert first.submitters == changed.submitters


def test_all_mistakes_are_reported_at_once_in_the_order_of_the_file(read: Read) -> None:
    """Three mistakes are three problems with their paths. Each text has subject, value and rule."""
    text = EXAMPLE.replace("timeout = 60", "timeout = 3").replace("11112", "70000").replace('"5 GB"', '"5 XB"')
    loaded = read(text)
    assert loaded.config is None
    assert ["dicom.port", "storage.reserve", "ae-titles.LUNG.settings.timeout"] == [p.path for p in loaded.problems]
    assert [
        "dicom.port = 70000, must be from 0 to 65535 (the default is 11112)",
        'storage.reserve = \'5 XB\', must be a size such as "5 GB" or "512 MiB" (the default is "5 GB")',
        "AE title 'LUNG': settings.timeout = 3, must be at least 5 seconds (the default is 5)",
    ] == [str(problem) for problem in loaded.problems]
    assert all(problem.kind is ConfigProblemKind.INVALID for problem in loaded.problems)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("[dicom]\nport = = 1", "(at line 2, column 8)"),
        ("[dicom]\nport = [1", "line 2, column 10"),
        (b"[dicom]\n# \xe9\n", "the file is not UTF-8: see line 2, byte 0xe9"),
        ("port = " + "1" * 5000, "the file is not TOML"),
        ("x = " + "[" * 10_000, "the file is not"),
    ],
    ids=["syntax", "unfinished", "latin-1", "digits", "nesting"],
)
def test_invalid_toml_is_one_problem(read: Read, text: str | bytes, expected: str) -> None:
    """The message has the position in the file."""
    loaded = read(text)
    assert loaded.config is None
    assert 1 == len(loaded.problems)
    assert expected in str(loaded.problems[0])
    assert "" == loaded.problems[0].path


def test_a_byte_order_mark_is_ignored(read: Read) -> None:
    """Some editors write a byte order mark at the beginning of a file."""
    assert () == read(b"\xef\xbb\xbf" + EXAMPLE.encode()).problems


def test_an_empty_file_lacks_all_required_tables(read: Read) -> None:
    """Storage, a submitter and an AE title have no defaults."""
    assert {"storage", "submitters", "ae-titles"} == {problem.path for problem in read("").problems}
    assert "storage is missing (The storage backend and its limits)" in [str(problem) for problem in read("").problems]


@pytest.mark.parametrize(
    "text", ["dicom = 1", "submitters = []", "ae-titles = 'LUNG'", "[[storage]]", "ae-titles.X = 1"]
)
def test_a_value_in_place_of_a_table_is_a_problem(read: Read, text: str) -> None:
    """No value raises an exception."""
    loaded = read(text)
    assert loaded.config is None
    assert any("must be a table" in problem.message for problem in loaded.problems)


def test_unknown_keys_are_reported_with_the_nearest_key(problems: Problems) -> None:
    """Unknown keys are reported at every level."""
    reported = problems(
        "[dicom]\nmax_pdu = 5\n[log]\nlvl = 1\n[lgo]\n[ae-titles.X]\nsubmiter = 'a'\nsettings.pipeline-a='b'"
    )
    assert {"dicom.max_pdu", "log.lvl", "lgo", "ae-titles.X.submiter"} == reported.keys()
    assert "did you mean 'max-pdu'?" in reported["dicom.max_pdu"]
    assert "did you mean 'submitter'?" in reported["ae-titles.X.submiter"]
    assert "(known: core-dumps, format, level)" in reported["log.lvl"]


def test_an_unknown_storage_key_is_compared_with_the_keys_of_core_and_backend(read: Read, minimal: str) -> None:
    """The table [storage] has both kinds of keys."""
    text = minimal.replace('path = "data"', 'path = "data"\ndepht = 3\nreserv = 5')
    reported = {p.path: p.message for p in read(text).problems}
    assert "did you mean 'depth'?" in reported["storage.depht"]
    assert "did you mean 'reserve'?" in reported["storage.reserv"]


def test_the_settings_of_a_backend_are_in_the_storage_table(read: Read, minimal: str) -> None:
    """The backend's settings class validates them; problems have the path of the table."""
    config = read(minimal.replace('path = "data"', 'path = "data"\ndepth = 3')).config
    assert config is not None
    assert 3 == config.storage.settings.depth
    wrong = read(minimal.replace('path = "data"', 'path = "data"\ndepth = 0')).problems
    assert ["storage.depth = 0, must be at least 1 (the default is 2)"] == [str(p) for p in wrong]


def test_relative_paths_are_relative_to_the_folder_of_the_file(read: Read, minimal: str, tmp_path: Path) -> None:
    """The current folder of the service does not matter."""
    config = read(minimal + '[ledger]\nurl = "sqlite:///l.sqlite"').config
    assert config is not None
    assert tmp_path / "data" == config.storage.path
    assert f"sqlite:///{tmp_path}/l.sqlite" == config.ledger_url


def test_a_tilde_is_the_home_folder(read: Read, minimal: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HOME", "/home/someone")
    config = read(minimal.replace('"data"', '"~/data"')).config
    assert config is not None
    assert Path("/home/someone/data") == config.storage.path


@pytest.mark.parametrize(
    ("url", "expected"),
    [
        ("postgresql+psycopg://me:hunter2@db/adapter", "PostgreSQL is not supported by this version"),
        ("mysql://me:hunter2@db/adapter", "must be sqlite:///<file>"),
        ("sqlite://", "must be sqlite:///<file>"),
        ("sqlite:///:memory:", "must name a plain file"),
    ],
)
def test_other_ledgers_are_refused_without_showing_a_password(problems: Problems, url: str, expected: str) -> None:
    """A URL may contain a password."""
    reported = problems(f'[ledger]\nurl = "{url}"')
    assert ["ledger.url"] == list(reported)
    assert expected in reported["ledger.url"]
    assert "hunter2" not in reported["ledger.url"]


@pytest.mark.parametrize(
    ("line", "expected"),
    [
        ("max-pdu = 4095", "must be 0 (no limit) or from 4096 to 1048576 bytes (the default is 131072)"),
        ("max-associations = 0", "must be from 1 to 1000"),
        ("max-associations = true", "must be a whole number"),
        ("idle-timeout = 0", "must be from 0.1 to 86400 seconds (the default is 60)"),
        ("drain-timeout = nan", "must be a finite number"),
        ("association-timeout = inf", "must be a finite number"),
        ('bind = "localhost"', "must be an IP address"),
        ("port = 99999999999999999999", "must be a whole number of at most 64 bits"),
        ("port = 11112.0", "must be a whole number"),
    ],
)
def test_invalid_values_of_the_dicom_table_are_refused(problems: Problems, line: str, expected: str) -> None:
    """The message names the rule, such as the limits of a number."""
    reported = problems(f"[dicom]\n{line}")
    assert [f"dicom.{line.split(' ')[0]}"] == list(reported)
    assert expected in next(iter(reported.values()))


def test_zero_means_unlimited_pdus_and_any_free_port(read: Read, minimal: str) -> None:
    config = read(minimal + '[dicom]\nmax-pdu = 0\nport = 0\nbind = "::1"\nidle-timeout = 5').config
    assert config is not None
    assert DicomConfig(max_pdu=0, port=0, bind="::1", idle_timeout=5.0) == config.dicom


def test_an_unknown_log_level_is_refused(problems: Problems) -> None:
    """The message lists the known levels."""
    reported = problems('[log]\nlevel = "warn"')
    expected = "log.level = 'warn', must be one of debug, info, warning, error; did you mean 'warning'?"
    assert f"{expected} (the default is info)" == reported["log.level"]


def test_the_longest_retry_pause_must_not_be_below_the_first(read: Read, minimal: str) -> None:
    """A problem of several settings is reported at their table."""
    text = minimal.replace('type = "remote"', 'type = "remote"\nretry-first = 400')
    assert ["submitter 'clara': is not valid: retry-most = 300 must not be below retry-first = 400"] == [
        str(problem) for problem in read(text).problems
    ]


def test_a_configuration_built_in_code_may_lack_a_default_submitter(read: Read, minimal: str) -> None:
    """With two submitters and no default, `submitter_for` raises an error that names the AE title."""
    config = read(minimal).config
    assert config is not None
    two = evolve(config, submitters={**config.submitters, "other": config.submitters["clara"]})
    with pytest.raises(Refused, match="'LUNG'"):
        two.submitter_for("LUNG")
