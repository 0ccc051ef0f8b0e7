"""`dicom-adapter simulate`: schedules are replayed through the configured processors, with reproducible results."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any

import pytest
from pydicom.uid import NuclearMedicineImageStorage, SecondaryCaptureImageStorage
from typer.testing import CliRunner

from dicom_adapter.cli import app
from dicom_adapter.testing import Adapter, make_instance, make_study

CONFIGURATION = """
[storage]
path = "data"
reserve = 0
watermark-percent = 100
[submitters.platform]
type = "memory"
[ae-titles.LUNG]
processor = "by-study"
settings = { timeout = 60, pipeline-lung = "p-lung" }
[ae-titles.ACCESSION]
processor = "by-hidden-study"
settings = { required = "AccessionNumber", pipeline-lung = "p-lung" }
"""


@pytest.fixture
def config(tmp_path: Path) -> Path:
    path = tmp_path / "adapter.toml"
    path.write_text(CONFIGURATION)
    return path


def simulate(*arguments: object) -> tuple[int, str, list[str]]:
    """Return the exit status, standard output and the lines of stderr."""
    result = CliRunner().invoke(app, ["simulate", *map(str, arguments)])
    return result.exit_code, result.stdout, result.stderr.splitlines()


def jobs(output: str) -> list[tuple[float, str, int, list[str]]]:
    """Return the jobs in the JSON of a simulation: time in seconds, pipeline id, number of instances, studies."""
    timeline: list[dict[str, Any]] = json.loads(output)["timeline"]
    return [
        (entry["seconds"], entry["pipelineId"], entry["instances"], entry["studies"])
        for entry in timeline
        if entry["kind"] == "job"
    ]


def test_the_output_is_reproducible(config: Path, tmp_path: Path) -> None:
    """The output shows numbers instead of group labels with patient data, and the schedule's names instead of UIDs.

    No file remains.
    """
    schedule = tmp_path / "schedule.csv"
    schedule.write_text(
        "time,ae-title,patient,study,count,over,AccessionNumber\n"
        "0,LUNG,P1,A,3,1.5,\n1,ACCESSION,P2,B,1,,A1\n0:00:02.5,ACCESSION,P3,C,2,,\n"
    )
    first, second = simulate(config, schedule), simulate(config, schedule)
    assert first == second
    assert (0, []) == (first[0], first[2])
    assert first[1].splitlines()[:6] == [
        "00:00:00.000  arrived   LUNG              P1/A, series 1: 1 CT",
        "00:00:00.000  waits     LUNG              study P1/A: 1 instance, until 00:01:00.000",
        "00:00:00.750  arrived   LUNG              P1/A, series 1: 1 CT",
        "00:00:00.750  waits     LUNG              study P1/A: 2 instances, until 00:01:00.750",
        "00:00:01.000  arrived   ACCESSION         P2/B, series 1: 1 CT",
        "00:00:01.000  waits     ACCESSION         group #1: 1 instance, until 00:00:06.000",
    ]
    assert 2 == first[1].count(" quarantined  ACCESSION ")
    assert "2 jobs; instances: 2 quarantined, 4 reclaimed" == first[1].splitlines()[-1]
    assert sorted(tmp_path.iterdir()) == [config, schedule]


def test_the_simulation_continues_while_a_group_waits(config: Path, tmp_path: Path) -> None:
    """`--for` sets the time after the last arrival; groups that are due later extend it."""
    schedule = tmp_path / "schedule.toml"
    schedule.write_text(
        'start = 2030-02-03T04:05:06Z\n[[arrivals]]\ntime = 00:00:01\nae-title = "LUNG"\npatient = "P"\nstudy = "A"\n'
    )
    _status, output, _errors = simulate(config, schedule, "--for", 10, "--json")
    assert ("2030-02-03T04:06:07Z", [(61.0, "p-lung", 1, ["P/A"])]) == (json.loads(output)["end"], jobs(output))


def test_an_hour_of_traffic_gives_all_jobs(config: Path, tmp_path: Path) -> None:
    """The schedule has a study every two minutes."""
    schedule = tmp_path / "hour.csv"
    lines = [f"{120 * number},LUNG,P{number},S,2,10" for number in range(30)]
    schedule.write_text("\n".join(["time,ae-title,patient,study,count,over", *lines]))
    _status, output, _errors = simulate(config, schedule, "--json")
    assert [(120.0 * n + 70, "p-lung", 2, [f"P{n}/S"]) for n in range(30)] == jobs(output)


@pytest.mark.parametrize(
    ("name", "text", "expected"),
    [
        (
            "s.csv",
            "",
            ["the file is empty; its first line must name the columns, such as time,ae-title,patient,study,count"],
        ),
        (
            "s.csv",
            "time,ae-title,patient,study,count\n0,LUNG,P,S\n",
            ["line 2: it has 4 values, but there are 5 columns"],
        ),
        (
            "s.csv",
            "# comment\ntime,ae-title,patient,study,cuont\n-1,LUNGS,P,S,2\nsoon,LUNG,,S,2\n",
            [
                "line 3: ae-title: 'LUNGS' is not configured (configured: ACCESSION, LUNG)",
                "line 3: cuont: neither a key of a schedule nor a DICOM keyword; did you mean 'count'?",
                "line 3: time: '-1' must be seconds, or hours:minutes:seconds, since the start",
                "line 4: patient: is missing",
                "line 4: cuont: neither a key of a schedule nor a DICOM keyword; did you mean 'count'?",
                "line 4: time: 'soon' must be seconds, or hours:minutes:seconds, since the start",
            ],
        ),
        (
            "s.toml",
            '[[arrivals]]\ntime = 0\nae-title = "LUNG"\npatient = "P"\nstudy = "S"\ncount = 0\nmodality = "XX"\n'
            'refused = -1\nend = "torn"\n',
            [
                "arrivals[0]: count: 0 must be a whole number from 1 to 100000",
                "arrivals[0]: modality: 'XX' must be one of CT, MR, CR, DX, US, OT, SR, SEG",
                "arrivals[0]: refused: -1 must be a whole number from 0 to 100000",
                "arrivals[0]: end: 'torn' must be one of released, aborted, lost, cut-off",
            ],
        ),
        ("s.toml", "[[arrivals]]\ntime = \n", ["Invalid value (at line 2, column 8)"]),
        ("s.toml", "arrivals = 3", ["arrivals: must be tables [[arrivals]]"]),
        ("s.toml", "start = 3\narrivals = []", ["start: must be a date and time with a time zone"]),
        ("s.toml", "begin = 3", ["begin: unknown key; a schedule has only start and [[arrivals]]"]),
    ],
)
def test_all_mistakes_of_a_schedule_are_reported(
    config: Path, tmp_path: Path, name: str, text: str, expected: list[str]
) -> None:
    """Each message has the line or the key."""
    schedule = tmp_path / name
    schedule.write_text(text)
    status, output, errors = simulate(config, schedule)
    assert (1, "", len(expected)) == (status, output, len(errors)), errors
    for line, part in zip(errors, expected, strict=True):
        assert line.startswith(f"error: {schedule}: {part}")


def test_a_missing_schedule_is_reported(config: Path, tmp_path: Path) -> None:
    """The schedule is named as a file or as an example."""
    assert (1, "", [f"error: {tmp_path / 'x.csv'}: No such file or directory"]) == simulate(config, tmp_path / "x.csv")
    names = "demo, demo-pacs, scenario-1, scenario-2, scenarios, two-ae-titles"
    expected = f"error: there is no example:x; the examples are: {names}"
    assert (1, "", [expected]) == simulate(config, "example:x")


def test_received_instances_are_recorded_without_patient_data(
    config: Path, tmp_path: Path, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A replay of the recording gives the same jobs at the same times."""
    adapter = Adapter(tmp_path, CONFIGURATION)
    for second in (0, 1, 40):
        adapter.receive(*make_study(modality="MR", instances=2, patient_id="DOE"), ae_title="LUNG", at=second)
    adapter.advance(60)
    assert [60, 61, 100] == [(job.created_at - adapter.started_at).total_seconds() for job in adapter.jobs]
    adapter.close()
    schedule = tmp_path / "recorded.csv"
    assert (0, f"{schedule}: 6 instances in 3 lines\n", []) == simulate(config, schedule, "--record")
    heading, *lines = schedule.read_text().splitlines()
    assert "time,ae-title,patient,study,series,count,over,modality,association,calling-ae-title,refused,end" == heading
    assert "40.000,LUNG,patient-1,study-3,series-3,2,0.000,MR,association-3,TEST-SCU,0,released" == lines[2]
    _status, output, _errors = simulate(config, schedule, "--json")
    assert [
        (60.0, "p-lung", 2, ["patient-1/study-1"]),
        (61.0, "p-lung", 2, ["patient-1/study-2"]),
        (100.0, "p-lung", 2, ["patient-1/study-3"]),
    ] == jobs(output)
    status, _output, errors = simulate(config, schedule, "--record")
    assert (1, [f"error: {schedule}: the file already exists; name a new file"]) == (status, errors)


@pytest.mark.parametrize(
    ("sop_class", "is_warned"), [(SecondaryCaptureImageStorage, False), (NuclearMedicineImageStorage, True)]
)
def test_a_recording_warns_of_sop_classes_without_synthetic_instances(
    config: Path, tmp_path: Path, sop_class: str, is_warned: bool
) -> None:
    """The replay has secondary captures instead. An arrival that was a secondary capture is no reason to warn.

    Verified to fail when the warning is printed for each arrival of the modality OT.
    """
    adapter = Adapter(tmp_path, CONFIGURATION)
    adapter.receive(make_instance(modality="OT", SOPClassUID=sop_class), ae_title="LUNG")
    adapter.close()
    status, _output, errors = simulate(config, tmp_path / "recorded.csv", "--record")
    assert (0, is_warned) == (status, any("some SOP classes have no synthetic instances" in line for line in errors))
