"""A real podman for tests: a storage of its own, and images that are built on this machine, without a registry."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path

from attrs import frozen

BASE = "localhost/test-base"  # a static busybox with links to its commands in /bin
BASE_CONTAINERFILE = """FROM scratch
COPY busybox /bin/busybox
RUN ["/bin/busybox", "sh", "-c", "/bin/busybox --install -s /bin"]
"""
# Locks in files: podman's default is one shared memory segment for all storages of the machine.
CONFIGURATION = '[engine]\nlock_type = "file"\n'
# podman asks for higher resource limits than processes without CAP_SYS_RESOURCE may set, and its default runtime crun
# refuses hybrid cgroups. Where one of these applies, runc runs the containers without these limits.
WRAPPED_RUNTIME = """cgroup_manager = "cgroupfs"
runtime = "runc"
[engine.runtimes]
runc = ["{wrapper}"]
"""
WRAPPER = """#!{python}
import json, os, sys
arguments = sys.argv[1:]
for option, name in (("--bundle", "config.json"), ("--process", "")):
    if option in arguments:
        path = os.path.join(arguments[arguments.index(option) + 1], name).rstrip("/")
        with open(path) as file:
            described = json.load(file)
        described.get("process", described).pop("rlimits", None)
        with open(path, "w") as file:
            json.dump(described, file)
os.execv("{runc}", ["runc", *arguments])
"""


class NoPodman(Exception):
    """Containers cannot be run here; the message is the reason."""


@frozen(kw_only=True)
class Podman:
    """A podman with a storage of its own."""

    program: str
    options: tuple[str, ...]  # options before the command: place and driver of the storage
    environment: Mapping[str, str]  # additional variables of the environment

    def run(self, *arguments: object, check: bool = True, seconds: float = 60) -> subprocess.CompletedProcess[str]:
        """Run a command of podman, for up to this time."""
        command = [self.program, *self.options, *map(str, arguments)]
        environment = {**os.environ, **self.environment}
        return subprocess.run(command, check=check, capture_output=True, text=True, timeout=seconds, env=environment)

    def build(self, image: str, containerfile: str = "", files: Mapping[str, str] | None = None) -> str:
        """Build an image of `files` (content by path) on the base image. Return its name."""
        with tempfile.TemporaryDirectory() as folder:
            for name, content in (files or {}).items():
                path = Path(folder, "root", name.lstrip("/"))
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_text(content, encoding="utf-8")
                path.chmod(0o755)
            Path(folder, "root").mkdir(exist_ok=True)
            Path(folder, "Containerfile").write_text(f"FROM {BASE}\nCOPY root /\n{containerfile}\n", encoding="utf-8")
            self.run("build", "--quiet", "--network", "none", "--tag", image, folder)
        return image

    def names(self) -> list[str]:
        """Return the names of all containers."""
        return self.run("ps", "--all", "--format", "{{.Names}}").stdout.split()


@contextmanager
def podman_with_storage() -> Iterator[Podman]:
    """Yield a podman that runs containers, with the base image. Raises NoPodman with the reason if there is none."""
    program, busybox = shutil.which("podman"), shutil.which("busybox")
    if program is None:
        raise NoPodman("podman is not installed")
    if busybox is None:
        raise NoPodman("a static busybox is not installed")
    folder = Path(tempfile.mkdtemp(prefix="podman-"))  # a short path: sockets are in it
    try:
        podman = _working_podman(program, busybox, folder)
        try:
            yield podman
        finally:
            podman.run("rm", "--force", "--all", "--time", "0", check=False)
            podman.run("rmi", "--force", "--all", check=False)
    finally:
        shutil.rmtree(folder, ignore_errors=True)


def _working_podman(program: str, busybox: str, folder: Path) -> Podman:
    """Return a podman that runs containers, with its default runtime or else with the wrapped runtime."""
    problems = []
    for number, further in enumerate(["", _wrapped_runtime(folder)]):
        own = folder / str(number)
        own.mkdir()
        configuration = own / "containers.conf"
        configuration.write_text(CONFIGURATION + further, encoding="utf-8")
        options = ["--storage-driver", "vfs", "--root", own / "root", "--runroot", own / "run", "--tmpdir", own / "tmp"]
        podman = Podman(
            program=program,
            options=tuple(map(str, options)),
            environment={"CONTAINERS_CONF": str(configuration)},
        )
        problem = _try(podman, busybox)
        if not problem:
            return podman
        problems.append(problem)
    raise NoPodman("podman runs no containers here: " + "; ".join(problems))


def _wrapped_runtime(folder: Path) -> str:
    wrapper = folder / "runc"
    runc = shutil.which("runc", path=f"{os.environ.get('PATH', os.defpath)}:/usr/sbin")
    wrapper.write_text(WRAPPER.format(python=sys.executable, runc=runc), encoding="utf-8")
    wrapper.chmod(0o755)
    return WRAPPED_RUNTIME.format(wrapper=wrapper)


def _try(podman: Podman, busybox: str) -> str:
    """Build the base image and run it. Return the problem, or "" if both succeeded."""
    with tempfile.TemporaryDirectory() as folder:
        shutil.copy(busybox, Path(folder, "busybox"))
        Path(folder, "Containerfile").write_text(BASE_CONTAINERFILE, encoding="utf-8")
        for arguments in (
            ["build", "--quiet", "--network", "none", "--tag", BASE, folder],
            ["run", "--rm", "--network", "none", BASE, "/bin/true"],
        ):
            result = podman.run(*arguments, check=False)
            if result.returncode:
                return " ".join(result.stderr.split()[-30:])
    return ""
