"""Distributions generated from the project's template."""

from __future__ import annotations

from pathlib import Path

from cookiecutter.main import cookiecutter

ROOT = Path(__file__).resolve().parent.parent.parent
KINDS = ("processor", "submitter", "storage-backend", "observer")


def generate(folder: Path, kind: str, name: str, **answers: str) -> Path:
    """Generate a distribution and return its folder."""
    # The quotes in the name test that the template escapes them.
    context = {"name": name, "kind": kind, "author": 'Ann "Author" Example', **answers}
    generated = cookiecutter(str(ROOT / "template"), no_input=True, output_dir=str(folder), extra_context=context)
    return Path(generated)
