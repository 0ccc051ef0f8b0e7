"""[ae-titles.<AE title>]: names, callers, lists, and the choice of the submitter."""

from __future__ import annotations

from collections.abc import Callable
from ipaddress import ip_network
from pathlib import Path

import pytest
from attrs import evolve

from dicom_adapter.api.hookspecs import Catalogue
from dicom_adapter.config import CallerConfig, ConfigProblemKind, Loaded, load

Read = Callable[[str | bytes], Loaded]
Problems = Callable[[str], dict[str, str]]

SETTINGS = "settings.pipeline-a = 'b'\n"
OTHER_SUBMITTER = '[submitters.other]\ntype = "remote"\nendpoint = "b"\n'


@pytest.mark.parametrize(
    ("key", "expected"),
    [
        ('"ABCDEFGHIJKLMNOPQ"', "must have at most 16 characters as an AE title; it has 17"),
        ('""', "must not be empty"),
        ('"   "', "must not be empty"),
        (r'"A\\B"', r"must not contain '\\'"),
        (r'"A\u0007"', r"must not contain '\x07'"),
        (r'"A\t"', r"must not contain '\t'"),
        (r'"A\u007f"', r"must not contain '\x7f'"),
        ('"LÜNG"', r"must not contain '\xdc'"),
    ],
)
def test_invalid_ae_titles_are_refused(problems: Problems, key: str, expected: str) -> None:
    """The message names the rule, for keys and for callers."""
    reported = problems(f"[ae-titles.{key}]\n{SETTINGS}[ae-titles.Y]\nallowed-callers = [{key}]\n{SETTINGS}")
    assert 2 == len(reported)
    assert all(expected in message for message in reported.values())
    assert "ae-titles.Y.allowed-callers[0]" in reported


def test_spaces_around_an_ae_title_are_ignored(read: Read, minimal: str) -> None:
    """The spaces are ignored in keys and in callers. The limit of sixteen characters applies to the remaining text."""
    config = read(minimal + f'[ae-titles."  ABCDEFGH IJKLMNO "]\nallowed-callers = [" CT1 "]\n{SETTINGS}').config
    assert config is not None
    assert {"LUNG", "ABCDEFGH IJKLMNO"} == config.ae_titles.keys()
    assert (CallerConfig(ae_title="CT1"),) == config.ae_titles["ABCDEFGH IJKLMNO"].allowed_callers


def test_two_keys_for_the_same_ae_title_are_refused(problems: Problems) -> None:
    """The message names both keys."""
    reported = problems(f'[ae-titles." LUNG "]\n{SETTINGS}')
    assert ['ae-titles." LUNG "'] == list(reported)
    assert "'LUNG' and ' LUNG ' are the same key" in reported['ae-titles." LUNG "']


def test_callers_are_identified_by_title_host_or_both(read: Read, minimal: str) -> None:
    """A host is an address or a network, IPv4 or IPv6."""
    callers = '["CT1", {host = "10.0.0.7"}, {ae-title = "A", host = "fd00::/8"}, {ae-title = "B"}]'
    config = read(minimal + f"[ae-titles.X]\nallowed-callers = {callers}\n{SETTINGS}").config
    assert config is not None
    assert (
        CallerConfig(ae_title="CT1"),
        CallerConfig(host=ip_network("10.0.0.7/32")),
        CallerConfig(ae_title="A", host=ip_network("fd00::/8")),
        CallerConfig(ae_title="B"),
    ) == config.ae_titles["X"].allowed_callers


def test_mistakes_in_callers_are_located_in_the_list(problems: Problems) -> None:
    """The path has the index in the list and the key in its table."""
    callers = '["CT1", {host = "10.0.0.5/24"}, {host = "pacs.local"}, {}, 5, {hots = "10.0.0.1"}, {host = 1}]'
    reported = problems(f"[ae-titles.X]\nallowed-callers = {callers}\n{SETTINGS}")
    at = "ae-titles.X.allowed-callers"
    expected = {
        f"{at}[1].host": "= '10.0.0.5/24', must have no host bits set; the network is 10.0.0.0/24",
        f"{at}[2].host": "must be an IP address or a network",
        f"{at}[3]": "ae-title, host or certificate must be given",
        f"{at}[4]": "must be an AE title or a table such as",
        f"{at}[5].hots": "did you mean 'host'?",
        f"{at}[6].host": "= 1, must be an IP address or a network",
    }
    assert expected.keys() == reported.keys()
    assert all(text in reported[path] for path, text in expected.items())


def test_an_empty_list_of_callers_is_refused(problems: Problems) -> None:
    """An empty list would reject every requestor. To accept all requestors, the key is omitted."""
    reported = problems(f"[ae-titles.X]\nallowed-callers = []\n{SETTINGS}")
    assert "AE title 'X': allowed-callers must not be empty" in reported["ae-titles.X.allowed-callers"]


def test_a_text_is_not_a_list(problems: Problems) -> None:
    """The text is not read as the list of its characters."""
    reported = problems(f"[ae-titles.X]\nallowed-callers = 'CT1'\nignored-sop-classes = '1.2'\n{SETTINGS}")
    assert {"ae-titles.X.allowed-callers", "ae-titles.X.ignored-sop-classes"} == reported.keys()
    assert all("must be a list in square brackets" in message for message in reported.values())


def test_sop_classes_must_be_uids(problems: Problems) -> None:
    """A UID has digits and dots, at most 64 characters."""
    reported = problems(f"[ae-titles.X]\nignored-sop-classes = ['1.2', 'CT', '{'1' * 65}', '']\n{SETTINGS}")
    at = "ae-titles.X.ignored-sop-classes"
    assert [f"{at}[1]", f"{at}[2]", f"{at}[3]"] == list(reported)
    assert "…, must be a UID" in reported[f"{at}[2]"]


def test_transfer_syntaxes_must_be_supported(problems: Problems) -> None:
    """A UID that DICOM does not define may be a transfer syntax. A UID with another meaning in DICOM is refused."""
    listed = ["1.2.840.10008.1.2.4.70", "1.2.840.113619.5.2", "JPEG", "1.2.840.10008.1.1", "1.2.840.10008.1.2.1.99"]
    reported = problems(f"[ae-titles.X]\ntransfer-syntaxes = {listed}\n{SETTINGS}")
    at = "ae-titles.X.transfer-syntaxes"
    assert [f"{at}[2]", f"{at}[3]", f"{at}[4]"] == list(reported)
    assert "must be a UID" in reported[f"{at}[2]"]
    assert "must be the UID of a transfer syntax; it is that of Verification SOP Class" in reported[f"{at}[3]"]
    assert "Deflated Explicit VR Little Endian is not one of them" in reported[f"{at}[4]"]
    empty = problems(f"[ae-titles.X]\ntransfer-syntaxes = []\n{SETTINGS}")
    assert "must not be empty" in empty[at]


def test_metadata_must_be_keywords_of_text_attributes(problems: Problems, read: Read, minimal: str) -> None:
    """The message suggests the nearest keyword. Attributes that are not text cannot be sent."""
    reported = problems(f"[ae-titles.X]\nmetadata = ['Modality', 'StudyDat', '', 'PixelData']\n{SETTINGS}")
    at = "ae-titles.X.metadata"
    assert [f"{at}[1]", f"{at}[2]", f"{at}[3]"] == list(reported)
    assert "did you mean 'StudyDate'?" in reported[f"{at}[1]"]
    config = read(minimal + f"[ae-titles.X]\nmetadata = ['Modality', 'PatientAge']\n{SETTINGS}").config
    assert config is not None
    assert ("Modality", "PatientAge") == config.ae_titles["X"].metadata


def test_the_settings_table_is_required_if_one_of_its_keys_is_required(problems: Problems) -> None:
    """An AE title without settings lacks its pipelines."""
    reported = problems("[ae-titles.X]\n")
    assert {
        "ae-titles.X.settings.pipeline-<name>": "AE title 'X': settings.pipeline-<name> must not be empty (Identifiers)"
    } == reported


def test_an_ae_title_has_the_named_or_the_default_submitter(read: Read, minimal: str) -> None:
    lines = OTHER_SUBMITTER + f"[ae-titles.X]\nsubmitter = 'other'\n{SETTINGS}"
    config = read("default-submitter = 'clara'\n" + minimal + lines).config
    assert config is not None
    assert ("clara", "other") == (config.submitter_for("LUNG"), config.submitter_for("X"))


def test_an_ae_title_needs_a_choice_between_two_submitters(problems: Problems) -> None:
    """A guess could send studies to the wrong platform."""
    assert {
        "ae-titles.LUNG.submitter": (
            "AE title 'LUNG': submitter is missing: name one of clara, other, or set default-submitter"
        )
    } == problems(OTHER_SUBMITTER)


def test_an_unknown_submitter_is_reported_with_the_nearest_name(read: Read, minimal: str) -> None:
    """The name is reported for an AE title and for the default, together with any other mistake."""
    text = (
        "default-submitter = 'othr'\n" + minimal + f"[ae-titles.X]\nsubmitter = 'calra'\n{SETTINGS}[dicom]\nport = -1\n"
    )
    assert [
        "default-submitter = 'othr', must name a [submitters.<name>] table (there are: clara)",
        "AE title 'X': submitter = 'calra', must name a [submitters.<name>] table; "
        "did you mean 'clara'? (there are: clara)",
        "dicom.port = -1, must be from 0 to 65535 (the default is 11112)",
    ] == [str(problem) for problem in read(text).problems]


def test_a_submitter_name_has_only_plain_characters(problems: Problems) -> None:
    """The name becomes the name of a folder."""
    reported = problems('[submitters."../x"]\ntype = "remote"\nendpoint = "b"\n[ae-titles.LUNG]\nsubmitter = "clara"')
    assert "must be a name of 1 to 64 letters" in reported['submitters."../x"']


def test_a_processor_that_is_not_installed_affects_its_ae_titles_only(read: Read, minimal: str, broken: str) -> None:
    """Other AE titles can start. The message names the installed and the broken plugins."""
    loaded = read(minimal + "[ae-titles.X]\nprocessor = 'tomo'\nsettings.anything = 1\n")
    (problem,) = loaded.problems
    assert ConfigProblemKind.UNAVAILABLE is problem.kind
    assert (
        "AE title 'X': needs processor 'tomo', which is not installed (installed: aetitle); "
        "these plugins could not be used: " + broken
    ) == str(problem)
    config = loaded.config
    assert config is not None
    assert config.ae_titles["X"].settings is None
    assert config.unavailable("X").startswith("needs processor 'tomo', which is not installed")
    assert "" == config.unavailable("LUNG")


def test_several_unusable_plugins_are_listed_after_one_introduction(
    minimal: str, catalogue: Catalogue, tmp_path: Path
) -> None:
    """Verified to fail when the introduction is repeated before each plugin."""
    unusable = evolve(catalogue, broken=("plugin 'a': no", "plugin 'b': no"), disabled=("plugin 'c'", "plugin 'd'"))
    text = minimal + "[ae-titles.X]\nprocessor = 'tomo'\n"
    (problem,) = load(text, folder=tmp_path, catalogue=unusable).problems
    expected = "; these plugins could not be used: plugin 'a': no; plugin 'b': no; disabled: plugin 'c'; plugin 'd'"
    assert str(problem).endswith(f"(installed: aetitle){expected}")


def test_a_submitter_that_is_not_installed_affects_its_ae_titles_only(read: Read, minimal: str) -> None:
    """AE titles of other submitters are available."""
    lines = "[submitters.far]\ntype = 'remoet'\nwhatever = 1\n[ae-titles.X]\nsubmitter = 'far'\n" + SETTINGS
    loaded = read("default-submitter = 'clara'\n" + minimal + lines)
    (problem,) = loaded.problems
    assert (ConfigProblemKind.UNAVAILABLE, "submitters.far") == (problem.kind, problem.path)
    assert "submitter 'far': needs submitter 'remoet', which is not installed; did you mean 'remote'?" in str(problem)
    config = loaded.config
    assert config is not None
    assert config.submitters["far"].settings is None
    assert config.unavailable("X").startswith("submitter 'far' needs submitter 'remoet'")
    assert "" == config.unavailable("LUNG")


def test_a_storage_backend_that_is_not_installed_is_a_problem(read: Read, minimal: str) -> None:
    """The service cannot start without the backend. An unavailable processor is reported, too."""
    text = minimal.replace('path = "data"', 'path = "data"\nbackend = "s3"') + "[ae-titles.X]\nprocessor = 'tomo'\n"
    loaded = read(text)
    assert loaded.config is None
    assert [("storage.backend", ConfigProblemKind.INVALID), ("ae-titles.X", ConfigProblemKind.UNAVAILABLE)] == [
        (problem.path, problem.kind) for problem in loaded.problems
    ]
    assert "storage.backend needs storage backend 's3', which is not installed (installed: local)" in str(
        loaded.problems[0]
    )
