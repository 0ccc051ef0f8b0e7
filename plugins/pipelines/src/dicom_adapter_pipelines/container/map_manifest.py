"""The manifest `app.json` of a MAP (MONAI Application Package): command, environment, and folders of the application.

The command is run directly: the entry script of a MAP ends with status 0, even if the application has failed.
"""

from __future__ import annotations

import json
import posixpath
import shlex
from collections.abc import Mapping
from typing import Any

from attrs import evolve, field, frozen

from dicom_adapter_pipelines.container.places import CONTAINER_PLACES
from dicom_adapter_pipelines.contracts import Contract, JobPlaces

HOLOSCAN, MONAI = "/etc/holoscan/app.json", "/etc/monai/app.json"  # today's layout, and that before Holoscan
PATHS = (HOLOSCAN, MONAI)
FOLDERS = {HOLOSCAN: "/var/holoscan", MONAI: "/var/monai"}  # default of workingDirectory


class ManifestProblem(Exception):
    """The manifest cannot be used; the message names the rule."""


@frozen(kw_only=True)
class MapManifest:
    """The part of the manifest that the run of the application needs."""

    command: tuple[str, ...]
    environment: Mapping[str, str] = field(repr=False)
    folder: str  # working directory
    places: JobPlaces


def parse_manifest(path: str, content: bytes) -> MapManifest:
    """Parse the manifest that an image has at `path`. Raises ManifestProblem."""
    try:
        values = json.loads(content)
    except ValueError:
        raise ManifestProblem(f"{path} in the image is not JSON") from None
    if not isinstance(values, dict):
        raise ManifestProblem(f"{path} in the image must be a JSON object")
    folder = posixpath.normpath(posixpath.join("/", str(values.get("workingDirectory") or FOLDERS[path])))
    return MapManifest(
        command=_command(path, values.get("command")),
        environment=_environment(path, values.get("environment") or {}),
        folder=folder,
        places=evolve(
            CONTAINER_PLACES[Contract.MAP],
            input=_folder(path, values, "input", folder),
            output=_folder(path, values, "output", folder),
        ),
    )


def _command(path: str, value: Any) -> tuple[str, ...]:
    """Return the command: a list of strings, or the JSON text of a list (as the packager writes), or a shell command.

    An empty command is accepted here, because the configuration may set the command.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            try:
                value = shlex.split(value)
            except ValueError:
                raise ManifestProblem(f"{path} in the image: command has an open quote") from None
    if not isinstance(value, list) or not all(isinstance(word, str) and word for word in value):
        raise ManifestProblem(f"{path} in the image: command must be a list of texts")
    return tuple(value)


def _environment(path: str, value: Any) -> Mapping[str, str]:
    if not isinstance(value, dict):
        raise ManifestProblem(f"{path} in the image: environment must be an object")
    return {str(name): text if isinstance(text, str) else json.dumps(text) for name, text in value.items()}


def _folder(path: str, values: Mapping[str, Any], key: str, below: str) -> str:
    """Return `<key>.path`, which may be relative to the working directory."""
    table = values.get(key) or {}
    found = table.get("path") if isinstance(table, dict) else None
    folder = posixpath.normpath(posixpath.join(below, str(found or f"{key}/")))
    if folder in ("/", below) or ":" in folder:
        raise ManifestProblem(f"{path} in the image: {key}.path must name a folder below the working directory")
    return folder
