"""Build all distributions reproducibly: `python tools/build_packages.py FOLDER`.

Each distribution gets a source distribution (sdist) and a wheel, which is built from the sdist. Two builds of one
commit have the same bytes, on any machine with the same version of hatchling: times of files are those of the commit,
or `SOURCE_DATE_EPOCH` (https://reproducible-builds.org/docs/source-date-epoch/).
"""

from __future__ import annotations

import argparse
import hashlib
import os
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
CHECKSUMS = "SHA256SUMS"  # as `sha256sum --check` reads it


def projects() -> list[Path]:
    """Return the folders of all distributions of the workspace."""
    return [ROOT / "core", *sorted(path.parent for path in ROOT.glob("plugins/*/pyproject.toml")), ROOT]


def source_date() -> str:
    """Return SOURCE_DATE_EPOCH, or the time of the commit in seconds."""
    given = os.environ.get("SOURCE_DATE_EPOCH")
    if given:
        return given
    command = ["git", "-C", str(ROOT), "log", "-1", "--format=%ct"]
    return subprocess.run(command, check=True, capture_output=True, text=True).stdout.strip()  # noqa: S603 - fixed words


def build(project: Path, folder: Path) -> None:
    """Build the sdist and the wheel of one project, with the tools of this environment."""
    command = [sys.executable, "-m", "build", "--no-isolation", "--outdir", str(folder), str(project)]
    done = subprocess.run(  # noqa: S603 - folders of this workspace
        command,
        env={**os.environ, "SOURCE_DATE_EPOCH": source_date()},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
        check=False,
    )
    if done.returncode:
        raise SystemExit(f"{project}: the build failed\n{done.stdout}")


def checksums(folder: Path) -> Iterator[str]:
    """Yield a line for each file."""
    for path in sorted(folder.iterdir()):
        if path.name != CHECKSUMS:
            yield f"{hashlib.sha256(path.read_bytes()).hexdigest()}  {path.name}\n"


def main() -> None:
    """Build into an empty folder, and write the checksums of all files."""
    parser = argparse.ArgumentParser(description="Build the sdists and wheels of all distributions.")
    parser.add_argument("folder", type=Path, help="folder for the files; it must be empty or not exist")
    folder = parser.parse_args().folder.resolve()
    folder.mkdir(parents=True, exist_ok=True)
    if any(folder.iterdir()):
        raise SystemExit(f"{folder} is not empty: old files would be released, too")
    for project in projects():
        build(project, folder)
    lines = list(checksums(folder))
    (folder / CHECKSUMS).write_text("".join(lines), encoding="utf-8")
    sys.stdout.writelines(lines)


if __name__ == "__main__":
    main()
