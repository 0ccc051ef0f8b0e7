"""Measured deliveries over C-STORE to DCMTK's storescp. Senders: DCMTK's dcmsend, the submitter, the adapter."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path

from receive_products import find_dcmtk, storescp
from upload_files import Instances
from upload_runs import HERE, LONGEST_S, Run, submit

# DCMTK uses the Nagle algorithm (RFC 896) unless this variable is set. With the algorithm, storescp sends the second
# piece of each response only after the TCP acknowledgement of the first piece. The sender's kernel delays it by 40 ms.
NO_DELAY = {"TCP_NODELAY": "1"}
CALLED = "BENCH"


def dcmsend(instances: Instances, folder: Path, _parallel: int, _associations: int) -> Run:
    """Run DCMTK's dcmsend. It uses one association."""
    program = str(Path(str(find_dcmtk())).with_name("dcmsend"))
    with _storescp(instances, folder) as port:
        command = [program, "--no-uid-checks", "-aec", CALLED, "127.0.0.1", str(port), *map(str, instances.paths)]
        began, before = time.monotonic(), os.times()
        subprocess.run(command, check=True, timeout=LONGEST_S, env={**os.environ, **NO_DELAY})  # noqa: S603
        seconds, after = time.monotonic() - began, os.times()
    cpu = after.children_user + after.children_system - before.children_user - before.children_system
    return Run(seconds=seconds, size_bytes=instances.size_bytes, cpu_seconds=cpu)


def submitter(instances: Instances, folder: Path, parallel: int, associations: int) -> Run:
    """Run the submitter alone, in a process of its own."""
    with _storescp(instances, folder) as port:
        files = folder / "files.txt"
        files.write_text("\n".join(map(str, instances.paths)), encoding="utf-8")
        command = [sys.executable, str(HERE / "delivery_submitter.py"), str(port), str(parallel), str(associations)]
        done = subprocess.run([*command, str(files)], stdout=subprocess.PIPE, check=True, timeout=LONGEST_S)  # noqa: S603
    return Run(size_bytes=instances.size_bytes, **json.loads(done.stdout))


def adapter(instances: Instances, folder: Path, parallel: int, associations: int) -> Run:
    """Run `dicom-adapter run` on a data folder with the pending instances. It delivers them in one job."""
    with _storescp(instances, folder) as port:
        table = {"type": "dicom", "host": "127.0.0.1", "port": port, "ae-title": CALLED, "associations": associations}
        lines = [f"{key} = {json.dumps(value)}" for key, value in {"parallel": parallel, **table}.items()]
        return submit(instances, folder / "adapter", "\n".join(["[submitters.platform]", *lines]))


SENDERS: dict[str, Callable[[Instances, Path, int, int], Run]] = {
    "dcmsend": dcmsend,
    "submitter": submitter,
    "adapter": adapter,
}


def senders(
    instances: Instances, folder: Path, number: int, parallel: int, associations: int
) -> Iterator[tuple[str, Callable[[], Run]]]:
    """Yield the name and the function of each run of a round. Each round begins with another sender."""
    names = list(SENDERS)
    first = number % len(names)
    for name in names[first:] + names[:first]:
        yield name, partial(SENDERS[name], instances, folder / name, parallel, associations)


@contextmanager
def _storescp(instances: Instances, folder: Path) -> Iterator[int]:
    """Run `storescp +B`, which writes data sets as they arrive. Yield its port. At the end, check their number."""
    folder.mkdir()
    os.sync()  # otherwise, the disk still writes what the previous run has received
    before = os.environ.get("TCP_NODELAY")
    os.environ.update(NO_DELAY)
    try:
        with storescp(folder, 1, ["+B", "--fork"]) as running:
            yield running.port
    finally:
        os.environ.pop("TCP_NODELAY")
        if before is not None:
            os.environ["TCP_NODELAY"] = before
    found = len(list((folder / "store").iterdir()))
    assert found == len(instances.paths), f"storescp has {found} instances"
    shutil.rmtree(folder / "store")
