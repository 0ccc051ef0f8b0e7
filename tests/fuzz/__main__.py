"""Coverage-guided fuzzing with a time limit: `make fuzz TARGET=acceptor MINUTES=5`.

If a target raises an exception for an input, the run ends with the traceback, and the input is written to `build/fuzz`.
Inputs that increase the coverage are kept in the folder of the option `--corpus`.
"""

from __future__ import annotations

import importlib
import tempfile
from pathlib import Path
from typing import Annotated, Any

import typer

LONGEST = 1 << 16  # bytes of an input
MEMORY_MB = 1024  # limit of the process
CRASHES = Path(__file__).parents[2] / "build" / "fuzz"


def main(
    target: Annotated[str, typer.Argument(help="acceptor, identity or proxy.")] = "acceptor",
    minutes: Annotated[float, typer.Option(min=0.01, help="Duration in minutes.")] = 5.0,
    corpus: Annotated[
        Path | None, typer.Option(help="Folder of inputs, to which new ones are added. Default: a temporary folder.")
    ] = None,
) -> None:
    """Run a target with many inputs. The exit status is 0 if the target raised no exception."""
    atheris: Any = importlib.import_module("atheris")  # installed by `make fuzz` only
    with atheris.instrument_imports(include=["dicom_adapter"]):
        targets = importlib.import_module("fuzz.targets").TARGETS
    if target not in targets:
        raise typer.BadParameter(f"there is no target {target!r} (there are: {', '.join(targets)})")
    CRASHES.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(prefix="dicom-adapter-fuzz-") as temporary:
        inputs = corpus or Path(temporary)
        inputs.mkdir(parents=True, exist_ok=True)
        for number, seed in enumerate(targets[target].seeds):
            (inputs / f"seed-{number}").write_bytes(seed)
        limits = [f"-max_total_time={round(minutes * 60)}", f"-max_len={LONGEST}", f"-rss_limit_mb={MEMORY_MB}"]
        atheris.Setup(["fuzz", str(inputs), f"-artifact_prefix={CRASHES}/{target}-", *limits], targets[target].run)
        atheris.Fuzz()


if __name__ == "__main__":
    typer.run(main)
