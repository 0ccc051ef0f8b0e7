"""`dicom-adapter synthesize` writes studies that can be sent."""

from __future__ import annotations

import errno
import json
from pathlib import Path
from typing import Any

import pytest
from pydicom import dcmread
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.dicom import synthetic

SMALL = ("--size", "16", "--instances", "2")


def synthesize(folder: Path, *options: str, status: int = 0) -> Any:
    result = CliRunner().invoke(app, ["synthesize", str(folder), *SMALL, *options])
    assert status == result.exit_code, result.output
    return result


def contents(folder: Path) -> dict[str, bytes]:
    return {str(path.relative_to(folder)): path.read_bytes() for path in folder.rglob("*.dcm")}


def test_the_folders_show_patients_studies_and_series(tmp_path: Path) -> None:
    """Names on disk do not contain UIDs. Each study has its own UID, accession number and date."""
    shown = synthesize(
        tmp_path / "new" / "out",
        "--patients",
        "2",
        "--studies",
        "2",
        "--series",
        "2",
        "--modality",
        "MR",
        "--modality",
        "SR",
    ).stdout
    assert shown.startswith("4 studies of 2 patients with 16 instances (")
    assert f"dicom-adapter send {tmp_path / 'new' / 'out'} --to " in shown
    data_sets = {path: dcmread(tmp_path / "new" / "out" / path) for path in contents(tmp_path / "new" / "out")}
    assert 16 == len({data_set.SOPInstanceUID for data_set in data_sets.values()})
    second = data_sets["patient-0002/study-0002-SR/series-0001/0002.dcm"]
    assert ("SYN-0002", "SYN-0002-0002", "20240102", "SR", 2) == (
        second.PatientID,
        second.AccessionNumber,
        second.StudyDate,
        second.Modality,
        second.InstanceNumber,
    )
    studies: dict[str, set[str]] = {}
    for path, data_set in data_sets.items():
        studies.setdefault(data_set.StudyInstanceUID, set()).add(path.rpartition("/series-")[0])
    assert [1] * 4 == [len(folders) for folders in studies.values()]
    assert 8 == len({data_set.SeriesInstanceUID for data_set in data_sets.values()})


def test_the_same_seed_gives_the_same_files(tmp_path: Path) -> None:
    """Without a seed all UIDs are new. More studies do not change the first ones."""
    for name, options in {"a": ["--seed", "1"], "b": ["--seed", "1", "--studies", "2"], "c": ["--seed", "2"]}.items():
        synthesize(tmp_path / name, *options)
    synthesize(tmp_path / "d")
    synthesize(tmp_path / "e")
    first, more, *others = (contents(tmp_path / name) for name in "abcde")
    assert first.items() <= more.items()
    assert 4 == len({tuple(path.values()) for path in (first, *others)})


def test_a_folder_that_is_not_empty_is_used_only_with_force(tmp_path: Path) -> None:
    synthesize(tmp_path, "--seed", "1")
    before = contents(tmp_path)
    refused = synthesize(tmp_path, "--seed", "2", status=1)
    assert refused.stderr.startswith(f"error: {tmp_path} is not empty; name a new folder, or ")
    assert before == contents(tmp_path)
    synthesize(tmp_path, "--seed", "2", "--force")
    assert before.keys() == contents(tmp_path).keys()
    assert before != contents(tmp_path)


def test_json_lists_the_studies(tmp_path: Path) -> None:
    (study,) = json.loads(synthesize(tmp_path / "out", "--series", "3", "--json").stdout)["studies"]
    written = dcmread(tmp_path / "out" / "patient-0001" / "study-0001-CT" / "series-0001" / "0001.dcm")
    assert {
        "folder": str(tmp_path / "out" / "patient-0001" / "study-0001-CT"),
        "patientId": "SYN-0001",
        "accessionNumber": "SYN-0001-0001",
        "studyInstanceUid": written.StudyInstanceUID,
        "modality": "CT",
        "series": 3,
        "instances": 6,
        "bytes": sum(map(len, contents(tmp_path / "out").values())),
    } == study


def test_an_unknown_modality_is_a_usage_error(tmp_path: Path) -> None:
    refused = synthesize(tmp_path / "out", "--modality", "XA", status=2)
    assert "'XA' is not one of CT, MR, " in refused.stderr
    assert not (tmp_path / "out").exists()


def test_a_full_disk_ends_the_command_with_the_number_of_studies(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def write(_data_set: object, path: Path) -> None:
        if "study-0002" in str(path):
            raise OSError(errno.ENOSPC, "No space left on device", str(path))
        path.touch()

    monkeypatch.setattr(synthetic, "write", write)
    refused = synthesize(tmp_path / "out", "--studies", "3", status=1)
    assert refused.stderr.endswith("0001.dcm: No space left on device; 1 of 3 studies written\n")


@pytest.mark.parametrize(
    ("configuration", "expected"),
    [
        (
            "[dicom]\nport = 4711\n[ae-titles.HEAD.settings]\npipeline-a = 'b'\n[ae-titles.LUNG]\n",
            "HEAD@localhost:4711",
        ),
        ("[ae-titles.'CT HEAD']\n", "'CT HEAD@localhost:11112'"),
        ("[dicom]\nbind = '::1'\n[ae-titles.HEAD]\n", "'HEAD@[::1]:11112'"),
        ("[dicom]\nport = 0\n[ae-titles.HEAD]\n", "AET@HOST:PORT"),
        ("dicom = 1\n", "AET@HOST:PORT"),
        ("[dicom\n", "AET@HOST:PORT"),
        (None, "AET@HOST:PORT"),
    ],
)
def test_the_next_command_has_the_address_of_the_configuration(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, configuration: str | None, expected: str
) -> None:
    """The command itself needs no configuration: a file that is damaged does not matter."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DICOM_ADAPTER_CONFIG", raising=False)
    if configuration is not None:
        Path("dicom-adapter.toml").write_text(configuration, encoding="utf-8")
    result = CliRunner().invoke(app, ["synthesize", "studies", "--instances", "1", "--size", "8"])
    assert result.stdout.splitlines()[-1] == f"Send them: dicom-adapter send studies --to {expected}"
