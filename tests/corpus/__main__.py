"""Run the corpus; with --write, write `results.json` and the page `docs/odd-cases.md`."""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Mapping
from pathlib import Path

from corpus import page, receivers, results


def main() -> int:
    """Return 0 if every receiver that is installed answers as recorded, 1 if not."""
    parser = argparse.ArgumentParser(prog="corpus", description="Send odd cases to the adapter and other receivers.")
    parser.add_argument("--write", action="store_true", help="write the results and the page of the documentation")
    parser.add_argument("--only", default="", help="run only the receiver whose name begins with this text")
    options = parser.parse_args()
    known = results.read()
    current: dict[str, results.Answers] = {}
    for name, receiver in {receivers.OWN: receivers.adapter, **receivers.other_receivers()}.items():
        if name.startswith(options.only):
            sys.stderr.write(f"{name} …\n")
            with tempfile.TemporaryDirectory() as folder:
                current[name] = results.run(receiver, Path(folder))
            if options.write:
                results.write({**known, **current})
    if not options.write:
        return show_differences(known, current)
    page.write(results.read())
    return 0


def show_differences(known: Mapping[str, results.Answers], current: Mapping[str, results.Answers]) -> int:
    """Print each answer that is not the recorded one. Return the exit status."""
    differences = [
        line for name, answers in current.items() for line in results.compare(name, known.get(name, {}), answers)
    ]
    sys.stdout.write("\n".join([*differences, f"{len(differences)} answers are not as recorded."]) + "\n")
    return 1 if differences else 0


if __name__ == "__main__":
    sys.exit(main())
