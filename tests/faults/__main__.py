"""Run the adapter with kills and faults, then count what became of each instance and job.

`python -m faults --minutes 10 --seed 1`, in the folder `tests`.
"""

from __future__ import annotations

import argparse
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from faults.campaign import Plan, run


def main() -> int:
    """Run the campaign. Return 0 if it has no findings, otherwise 1. With findings, its folder is always kept."""
    parser = argparse.ArgumentParser(prog="python -m faults", description=__doc__)
    parser.add_argument("--minutes", type=float, default=10.0, help="duration of kills and faults (default: 10)")
    parser.add_argument("--seed", default="1", help="seed of all random choices (default: 1)")
    parser.add_argument("--senders", type=int, default=3, help="DICOM senders at the same time (default: 3)")
    parser.add_argument("--folder", type=Path, help="folder of the run, which is kept (default: a temporary one)")
    options = parser.parse_args()
    # SystemExit, so that `run` ends its processes and removes its mounts.
    signal.signal(signal.SIGTERM, lambda number, _frame: sys.exit(128 + number))
    folder = options.folder or Path(tempfile.mkdtemp(prefix="dicom-adapter-faults-"))
    seconds = options.minutes * 60
    plan = Plan(
        folder=folder, seed=options.seed, seconds=seconds, senders=options.senders, drain_seconds=120 + seconds / 2
    )
    started = time.monotonic()
    report = run(plan, lambda line: _print(f"{time.monotonic() - started:5.0f} s  {line}"))
    _print(str(report))
    if report.is_good and options.folder is None:
        shutil.rmtree(folder)
    elif not report.is_good:
        (folder / "findings.txt").write_text("\n".join(map(str, report.findings)), encoding="utf-8")
        _print(f"the files of the run are in {folder}, all findings in findings.txt")
    return 0 if report.is_good else 1


def _print(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    sys.exit(main())
