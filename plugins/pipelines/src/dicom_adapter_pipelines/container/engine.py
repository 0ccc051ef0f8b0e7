"""`Engine`: calls podman or docker through its command-line client. Both have the commands that are used here."""

from __future__ import annotations

import io
import json
import re
import subprocess
import tarfile
from typing import Any

from attrs import frozen

from dicom_adapter_pipelines.container.plan import EngineCommand, EngineKind

CALL_SECONDS = 25.0  # limit of a call, except pulls; two calls fit into the limit of the runner for `end`
MAX_FILE_BYTES = 4 << 20  # of a file that is read from an image
SHOWN_CHARACTERS = 300  # of a message of the engine
LOCAL = (
    "localhost/"  # begins the name of an image that was built on this machine; the name of a local registry has a port
)
# Parts of the messages of podman and docker.
NO_IMAGE = re.compile("no such image|image not known|no such object", re.IGNORECASE)
NOT_RUNNING = re.compile("(cannot|failed to|trying to) connect|connection refused|daemon running", re.IGNORECASE)
# The next step for an engine that is not usable.
START = {
    EngineKind.PODMAN: "run `{client} info` as the user of the service, and correct what it reports",
    EngineKind.DOCKER: "start it (`systemctl start docker`), and put the user of the service into the group `docker`",
}


class EngineFailure(Exception):
    """The engine is not usable, or refused a command. The message names the next step."""


class EngineNotRunning(EngineFailure):
    """The engine is missing, is not running, or does not answer. It may be available later."""


@frozen(kw_only=True)
class Image:
    """An image that the engine has."""

    id: str
    digest: str


@frozen(kw_only=True)
class ContainerEnd:
    """The state of a container after its client has ended."""

    has_run: bool  # its process was started
    out_of_memory: bool  # the kernel has killed a process of it


class Engine:
    """Calls an engine. Every call may raise EngineFailure."""

    def __init__(self, command: EngineCommand) -> None:
        self.kind = command.kind
        self.program = command.program

    def version(self) -> str:
        """Return the version of the engine. Raises EngineNotRunning if docker's daemon does not run."""
        side = "Server" if self.kind is EngineKind.DOCKER else "Client"  # podman has no daemon
        return self._call("version", "--format", f"{{{{.{side}.Version}}}}").decode(errors="replace").strip()

    def image(self, reference: str) -> Image | None:
        """Return the image with this name or id; None if the engine does not have it."""
        try:
            answer = self._call("image", "inspect", reference)
        except EngineNotRunning:
            raise
        except EngineFailure as failure:
            if NO_IMAGE.search(str(failure)):
                return None
            raise
        found = _first(answer)
        identity = str(found.get("Id", ""))
        known = [str(digest).rpartition("@")[2] for digest in found.get("RepoDigests") or ()]
        digest = str(found.get("Digest") or "") or next(iter(known), "") or _sha256(identity)
        return Image(id=identity, digest=digest)

    def pull(self, reference: str) -> None:
        """Pull an image. Progress and errors go to stdout and stderr of this process, so to the log of the job."""
        try:
            done = subprocess.run([*self.program, "pull", reference], check=False)  # noqa: S603 - no shell
        except OSError as error:
            raise EngineNotRunning(self._unusable(str(error))) from error
        if done.returncode:
            if is_local(reference):
                raise EngineFailure(missing_image(self.kind.value, reference))
            raise EngineFailure(
                f"image '{reference}' is missing and cannot be pulled: run `{self.kind.value} pull {reference}` as the "
                "user of the service, or correct `image`; the engine's message is in the log of the job"
            )

    def read_file(self, image: Image, paths: tuple[str, ...], name: str) -> tuple[str, bytes] | None:
        """Return the path and the content of the first of the `paths` that the image has; None if it has none.

        `name` is the name of a container that is created, not run, and removed.
        """
        self.remove(name)
        # `/none` is a command that is never run: an image without a command needs one.
        self._call("create", "--name", name, "--network", "none", "--pull", "never", image.id, "/none")
        try:
            for path in paths:
                content = self._copy(name, path)
                if content is not None:
                    return path, content
            return None
        finally:
            self.remove(name)

    def end_of(self, name: str) -> ContainerEnd:
        """Return the state of a container whose client has ended."""
        try:
            state = _first(self._call("container", "inspect", name)).get("State") or {}
        except EngineFailure:
            return ContainerEnd(has_run=False, out_of_memory=False)
        has_run = str(state.get("Status", "")).lower() not in ("created", "configured", "initialized")
        return ContainerEnd(has_run=has_run, out_of_memory=bool(state.get("OOMKilled")))

    def label_of(self, name: str, label: str) -> str:
        """Return a label of a container; "" if there is no container or label."""
        try:
            found = _first(self._call("container", "inspect", name))
        except EngineNotRunning:
            raise
        except EngineFailure:
            return ""
        return str(((found.get("Config") or {}).get("Labels") or {}).get(label, ""))

    def remove(self, name: str) -> None:
        """End and remove a container in any state; it may be missing."""
        try:
            self._call("rm", "--force", "--volumes", name)
        except EngineNotRunning:
            raise
        except EngineFailure as failure:
            if not re.search("no such container|no container with name", str(failure), re.IGNORECASE):
                raise

    def _copy(self, name: str, path: str) -> bytes | None:
        try:
            archive = self._call("cp", f"{name}:{path}", "-")
        except EngineNotRunning:
            raise
        except EngineFailure:
            return None
        with tarfile.open(fileobj=io.BytesIO(archive)) as files:
            for member in files:
                file = files.extractfile(member) if member.isreg() and member.size <= MAX_FILE_BYTES else None
                if file is not None:
                    return file.read()
        return None

    def _call(self, *arguments: str) -> bytes:
        try:
            done = subprocess.run(  # noqa: S603 - no shell
                [*self.program, *arguments],
                stdin=subprocess.DEVNULL,
                capture_output=True,
                timeout=CALL_SECONDS,
                check=False,
            )
        except subprocess.TimeoutExpired:
            raise EngineNotRunning(self._unusable(f"no answer within {CALL_SECONDS:g} seconds")) from None
        except OSError as error:
            raise EngineNotRunning(self._unusable(error.strerror or str(error))) from error
        if done.returncode == 0:
            return done.stdout
        message = " ".join(done.stderr.decode(errors="replace").split())[-SHOWN_CHARACTERS:]
        if NOT_RUNNING.search(message):
            raise EngineNotRunning(self._unusable(message))
        raise EngineFailure(f"{self.kind.value} {arguments[0]} failed: {message}")

    def _unusable(self, reason: str) -> str:
        step = START[self.kind].format(client=self.program[0])
        return f"{self.kind.value} is not usable ({reason}): {step}"


def missing_image(client: str, image: str) -> str:
    """Return the state of an image that the engine does not have, and the next step."""
    if is_local(image):
        return (
            f"image '{image}' is missing, and {LOCAL} is no registry from which it could be pulled: as the user of the "
            f"service, build it (`{client} build --tag {image} FOLDER`) or load it (`{client} load --input FILE`); or "
            "correct `image`"
        )
    return f"image '{image}' is missing: run `{client} pull {image}` as the user of the service"


def is_local(image: str) -> bool:
    """Return whether the name of an image says that it was built on this machine."""
    return image.startswith(LOCAL)


def _first(answer: bytes) -> dict[str, Any]:
    """Return the first object of the JSON list that `inspect` prints."""
    try:
        found = json.loads(answer)
    except ValueError:
        found = None
    if isinstance(found, list) and found and isinstance(found[0], dict):
        return found[0]
    raise EngineFailure("the engine's answer to inspect is not a list of JSON objects")


def _sha256(identity: str) -> str:
    return identity if identity.startswith("sha256:") else f"sha256:{identity}"
