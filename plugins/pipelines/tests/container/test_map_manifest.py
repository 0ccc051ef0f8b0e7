"""The manifest app.json of MAPs: both layouts, and manifests that cannot be used."""

from __future__ import annotations

import json
from typing import Any

import pytest

from dicom_adapter_pipelines.container.map_manifest import HOLOSCAN, MONAI, ManifestProblem, MapManifest, parse_manifest


def parse(path: str = HOLOSCAN, **values: Any) -> MapManifest:
    """Parse a manifest with a command and these values."""
    return parse_manifest(path, json.dumps({"command": ["run"], **values}).encode())


@pytest.mark.parametrize(
    ("path", "folder"), [(HOLOSCAN, "/var/holoscan"), (MONAI, "/var/monai")], ids=["holoscan", "monai"]
)
def test_folders_have_the_defaults_of_their_layout(path: str, folder: str) -> None:
    manifest = parse(path)
    assert (folder, f"{folder}/input", f"{folder}/output") == (
        manifest.folder,
        manifest.places.input,
        manifest.places.output,
    )


def test_folders_are_relative_to_the_working_directory() -> None:
    manifest = parse(workingDirectory="/srv/", input={"path": "in/", "formats": None}, output={"path": "/results/"})
    assert ("/srv", "/srv/in", "/results") == (manifest.folder, manifest.places.input, manifest.places.output)


@pytest.mark.parametrize(
    "command",
    [["python3", "/opt/app"], '["python3", "/opt/app"]', "python3 /opt/app", "python3 '/opt/app'"],
    ids=["list", "text of a list", "words", "quoted words"],
)
def test_command_may_be_a_list_or_a_text(command: object) -> None:
    """The packager writes the JSON text of a list."""
    assert ("python3", "/opt/app") == parse(command=command).command


def test_values_of_variables_become_texts() -> None:
    assert {"A": "1", "B": "true", "C": "x"} == parse(environment={"A": 1, "B": True, "C": "x"}).environment


@pytest.mark.parametrize(
    ("content", "problem"),
    [
        (b"\xff", "is not JSON"),
        (b"[]", "must be a JSON object"),
        (b'{"command": null}', "command must be a list of texts"),
        (b'{"command": [1]}', "command must be a list of texts"),
        (b'{"command": "run \'it"}', "command has an open quote"),
        (b'{"command": ["a"], "environment": [1]}', "environment must be an object"),
        (b'{"command": ["a"], "input": {"path": "/"}}', "input.path must name a folder"),
        (b'{"command": ["a"], "output": {"path": "../.."}}', "output.path must name a folder"),
        (b'{"command": ["a"], "input": {"path": "a:b"}}', "input.path must name a folder"),
    ],
)
def test_unusable_manifest_is_refused(content: bytes, problem: str) -> None:
    with pytest.raises(ManifestProblem, match=problem):
        parse_manifest(HOLOSCAN, content)
