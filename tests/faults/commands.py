"""The commands of jobs, and the folder to which their results are delivered: both are outside of the disk.

The program notes its start with the data sets of its input, and its end with those of its results. Each result is an
instance of the input with another SOP Instance UID. In a deflated data set, the UID cannot be replaced: the adapter has
to quarantine this result.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

DESTINATION = "drop"
PROGRAM = """
import hashlib, json, os, random, re, sys, time
from pathlib import Path

source, output, job, notes = map(Path, sys.argv[1:])
described = json.loads(job.read_bytes())
MOST = 2  # results of a job


def note(**entry):
    line = json.dumps({"job": described["job"], "run": described["run"], **entry}) + "\\n"
    file = os.open(notes, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
    os.write(file, line.encode())
    os.close(file)


def split(content):  # PS3.10 section 7.1: the File Meta Information begins with its length
    start = 144 + int.from_bytes(content[140:144], "little")
    return content[:start], content[start:]


def uid_of(content):  # (0002,0003)
    meta, _data_set = split(content)
    at = meta.index(b"\\x02\\x00\\x03\\x00UI") + 6
    length = int.from_bytes(meta[at : at + 2], "little")
    return meta[at + 2 : at + 2 + length].rstrip(b"\\0")


def described_file(content):
    return {"uid": uid_of(content).decode(), "digest": hashlib.sha256(split(content)[1]).hexdigest()}


began = time.time()
files = [path.read_bytes() for path in sorted(source.rglob("*.dcm"))]
note(began=began, pipeline=described["pipeline"], files=[described_file(content) for content in files])
written = []
for number, content in enumerate(files[:MOST]):
    uid = uid_of(content)
    new = uid[:-12] + b"%012d" % random.randrange(10**12)
    result = content.replace(uid, new)
    (output / f"{number}.dcm").write_bytes(result)
    written.append(described_file(result))
time.sleep(random.uniform(0.0, 1.0))
note(written=written)
"""


class Commands:
    """The files of the program and of the destination in a folder."""

    def __init__(self, folder: Path) -> None:
        self._program, self.notes = folder / "program.py", folder / "notes.jsonl"
        self._jobs, self.drop = folder / "jobs", folder / "drop"

    def prepare(self) -> None:
        """Write the program."""
        self.drop.mkdir(parents=True)
        self._program.write_text(PROGRAM, encoding="utf-8")

    def configuration(self, pipelines: tuple[str, ...], retries: str) -> str:
        """Return the tables of the submitters `local` and `drop`."""
        command = [sys.executable, str(self._program), "{input}", "{output}", "{job}", str(self.notes)]
        tables = "".join(
            f"\n[submitters.local.pipelines.{name}]\ncommand = {json.dumps(command)}\n" for name in pipelines
        )
        return f"""
[submitters.local]
type = "command"
folder = "{self._jobs}"
running = 2
{retries.replace("status-every = 5", "status-every = 0.5")}
{tables}
[submitters.{DESTINATION}]
type = "folder"
path = "{self.drop}"
{retries}
"""
