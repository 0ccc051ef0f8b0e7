"""The template: generated distributions lint, pass their tests, install, and work in a real adapter."""

from __future__ import annotations

import json
import re
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import tomli
from cookiecutter.exceptions import FailedHookException

from dicom_adapter.cli import CORE_COMMANDS
from dicom_adapter.testing import make_study
from dicom_adapter.testing.fixtures import LaunchService
from support.template import KINDS, generate
from support.third_party import install_folders

pytestmark = pytest.mark.slow

CONFIGURATION = """
[storage]
backend = "template-storage-backend"
path = "data"
watermark-percent = 100
reserve = 0

[submitters.platform]
type = "template-submitter"
folder = "platform"

[ae-titles.MINE]
processor = "template-processor"

[ae-titles.MINE.settings]
quiet = 1
pipeline-first = "pipeline-1"
pipeline-second = "pipeline-2"
"""


@pytest.fixture(scope="session")
def generated(tmp_path_factory: pytest.TempPathFactory) -> Mapping[str, Path]:
    """A generated distribution of each kind."""
    folder = tmp_path_factory.mktemp("generated")
    return {kind: generate(folder, kind, f"Template {kind}") for kind in KINDS}


@pytest.fixture(scope="session")
def python(generated: Mapping[str, Path], tmp_path_factory: pytest.TempPathFactory) -> str:
    """The Python of a new environment in which all generated distributions are installed."""
    return install_folders(tmp_path_factory.mktemp("template"), list(generated.values()))


def run(folder: Path, *command: str) -> str:
    """Run a command and return its output. Fail the test if the command fails."""
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert 0 == done.returncode, done.stdout + done.stderr
    return done.stdout


@pytest.mark.parametrize("kind", KINDS)
def test_generated_distributions_pass_lint_and_type_checks(generated: Mapping[str, Path], kind: str) -> None:
    """The commands are those of the generated README."""
    ruff = str(Path(sys.executable).parent / "ruff")
    run(generated[kind], ruff, "format", "--check", ".")
    run(generated[kind], ruff, "check", ".")
    run(generated[kind], sys.executable, "-m", "mypy")


@pytest.mark.parametrize("kind", KINDS)
def test_the_generated_readme_names_only_what_exists(generated: Mapping[str, Path], kind: str) -> None:
    """Commands, tables and modules exist. There are no links, because nothing is published."""
    readme = (generated[kind] / "README.md").read_text(encoding="utf-8")
    assert f"A {kind.replace('-', ' ')} for dicom-adapter." in readme
    assert "://" not in readme
    assert "{{" not in readme
    assert CORE_COMMANDS >= set(re.findall(r"dicom-adapter ([a-z]+)\b(?! in)", readme.partition("\n")[2]))
    for path in re.findall(r"`(src/[^`]+|tests/)`", readme):
        assert (generated[kind] / path).exists()


@pytest.mark.timeout(600)  # a conformance suite, on a busy machine
@pytest.mark.parametrize("kind", KINDS)
def test_generated_distributions_pass_their_tests(generated: Mapping[str, Path], python: str, kind: str) -> None:
    """The distributions are installed without network. Their tests include the conformance suite."""
    output = run(generated[kind], python, "-m", "pytest", "-q", "-p", "no:cacheprovider", "-o", "timeout=300")
    assert " passed" in output
    assert "failed" not in output


def test_generated_plugins_work_together_in_a_real_adapter(
    launch_service: LaunchService, python: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Storage backend, processor, submitter and observer handle the same study."""
    observed = tmp_path / "observed.jsonl"
    monkeypatch.setenv("DICOM_ADAPTER_TEMPLATE_OBSERVER_FILE", str(observed))
    service = launch_service(CONFIGURATION, "--strict", python=python)
    study = make_study(instances=3)
    assert [True] * 3 == [result.ok for result in service.send(*study, ae_title="MINE")]
    service.wait_for("job_submitted", times=2, seconds=60)
    service.wait_for("instances_reclaimed")
    assert 0 == service.stop()

    folder = tmp_path / "service"
    jobs = sorted((folder / "platform").iterdir())
    assert {"pipeline-1", "pipeline-2"} == {(job / "ready").read_text(encoding="utf-8") for job in jobs}
    assert [3, 3] == [len(list(job.glob("*.dcm"))) for job in jobs]
    assert [] == list((folder / "data" / "instances").glob("*.segment"))
    lines = [json.loads(line) for line in observed.read_text(encoding="utf-8").splitlines()]
    assert [("MINE", "submitted")] * 2 == [(line["aeTitle"], line["state"]) for line in lines]


@pytest.mark.parametrize("licence", ["MIT", "Apache-2.0", "BSD-3-Clause", "Proprietary"])
def test_each_licence_has_its_text_and_its_spdx_expression(tmp_path: Path, licence: str) -> None:
    """The text is in LICENSE, the expression in pyproject.toml."""
    project_folder = generate(tmp_path, "observer", "Licensed", licence=licence)
    project = tomli.loads((project_folder / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    assert project["license"].removeprefix("LicenseRef-") == licence
    assert [{"name": 'Ann "Author" Example'}] == project["authors"]
    assert "{" + "{" not in (project_folder / "LICENSE").read_text(encoding="utf-8")


@pytest.mark.parametrize("name", ["名前", "9 lives", "a_b", " "])
def test_an_invalid_distribution_name_is_refused(tmp_path: Path, name: str) -> None:
    """No file is written."""
    with pytest.raises(FailedHookException):
        generate(tmp_path, "processor", name)
    assert [] == list(tmp_path.iterdir())
