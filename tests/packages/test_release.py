"""The workflow that publishes a release: its syntax, its permissions, and the versions of what it runs."""

from __future__ import annotations

import re
import subprocess
from typing import Any

import pytest
import tomli
import yaml
from tools.build_packages import projects

from support.pages import DOCS, ROOT

PATH = ROOT / ".github" / "workflows" / "release.yml"
# PyYAML reads YAML 1.1, in which the key `on` is a boolean.
WORKFLOW = yaml.safe_load(PATH.read_text(encoding="utf-8").replace("\non:", '\n"on":'))
JOBS: dict[str, dict[str, Any]] = WORKFLOW["jobs"]
STEPS: list[dict[str, Any]] = [step for job in JOBS.values() for step in job["steps"]]
PINNED = re.compile(r"uses: [\w-]+/[\w-]+@[0-9a-f]{40} # v\d+\.\d+\.\d+")


def test_only_a_tag_of_a_version_starts_the_workflow() -> None:
    assert {"push": {"tags": ["v[0-9]+.[0-9]+.[0-9]+*"]}} == WORKFLOW["on"]


def test_each_job_has_only_the_permissions_that_it_needs() -> None:
    """Only the job that runs no code of the repository may publish."""
    assert {} == WORKFLOW["permissions"]
    assert {
        "check": {"contents": "read"},
        "build": {"contents": "read", "id-token": "write", "attestations": "write"},
        "publish": {"id-token": "write"},
    } == {name: job["permissions"] for name, job in JOBS.items()}
    assert [] == [step for step in JOBS["publish"]["steps"] if "run" in step or "checkout" in step["uses"]]


def test_a_release_is_published_after_the_tests_and_an_approval() -> None:
    publish = JOBS["publish"]
    assert (["check", "build"], "release") == (publish["needs"], publish["environment"])
    assert [".ci/run"] == [step["run"] for step in JOBS["check"]["steps"] if "run" in step]
    assert all(job["timeout-minutes"] for job in JOBS.values())


def test_actions_are_pinned_to_commits() -> None:
    """A tag can be moved to other code, a commit cannot."""
    lines = [line for line in PATH.read_text(encoding="utf-8").splitlines() if "uses:" in line]
    assert [] == [line for line in lines if PINNED.search(line) is None]
    assert len(lines) == sum("uses" in step for step in STEPS)


@pytest.mark.parametrize("script", [step["run"] for step in STEPS if "run" in step])
def test_scripts_are_valid_and_get_no_text_from_outside(script: str) -> None:
    """An expression in a script would insert the name of a tag into the program."""
    assert 0 == subprocess.run(["bash", "-n", "-c", script], check=False).returncode
    assert "${{" not in script


def test_published_files_are_attested_packages() -> None:
    steps = {step["uses"].partition("@")[0]: step.get("with", {}) for step in STEPS if "uses" in step}
    assert "dist/SHA256SUMS" == steps["actions/attest-build-provenance"]["subject-checksums"]
    assert ("packages", "dist/") == tuple(steps["actions/download-artifact"].values())
    assert steps["pypa/gh-action-pypi-publish"]["attestations"]
    assert not {"user", "password"} & set(steps["pypa/gh-action-pypi-publish"])


def test_all_distributions_have_one_version_and_require_each_other_in_it() -> None:
    texts = {path: (path / "pyproject.toml").read_text(encoding="utf-8") for path in projects()}
    [version] = {tomli.loads(text)["project"]["version"] for text in texts.values()}
    required = {found for text in texts.values() for found in re.findall(r'dicom-adapter-[^"=]+==([^"]+)"', text)}
    assert {version} == required


def test_the_page_lists_all_distributions() -> None:
    names = {
        tomli.loads((path / "pyproject.toml").read_text(encoding="utf-8"))["project"]["name"] for path in projects()
    }
    text = (DOCS / "how-to" / "release.md").read_text(encoding="utf-8")
    assert set() == {
        name for name in names if f"`{name}`" not in text and f"`{name[len('dicom-adapter') :]}`" not in text
    }
