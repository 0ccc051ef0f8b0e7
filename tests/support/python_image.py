"""A base image with the Python of this machine, for tests that build images without a registry."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
import sysconfig
import zipfile
from collections.abc import Iterable
from pathlib import Path

from support.podman import BASE, Podman

IMAGE = "localhost/test-python"
LIBRARIES = "usr/lib/of-this-machine"  # folder of the shared libraries
LEFT_OUT = (
    "site-packages",
    "dist-packages",
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "turtledemo",
    "lib2to3",
    "config-*",
)
CONTAINERFILE = f"""FROM {BASE}
COPY root /
ENV PATH=/usr/local/bin:/bin LD_LIBRARY_PATH=/{LIBRARIES}
"""
LIBRARY = re.compile(r"=> (/\S+) \(|^\s*(/\S*ld-linux\S*) \(", re.MULTILINE)


def build_python_image(podman: Podman, wheels: Path, folder: Path) -> str:
    """Build an image with Python, the shared libraries that it and these wheels need, and pip. Return its name."""
    root = folder / "root"
    version = f"python{sys.version_info.major}.{sys.version_info.minor}"
    standard = Path(sysconfig.get_path("stdlib"))
    ignored = shutil.ignore_patterns(*LEFT_OUT, "__pycache__")
    target = root / "usr/local/lib" / version
    shutil.copytree(standard, target, ignore=ignored)
    program = root / "usr/local/bin" / version
    program.parent.mkdir()
    shutil.copy(Path(sys.executable).resolve(), program)
    for name in ("python", "python3"):
        (program.parent / name).symlink_to(version)
    [pip] = wheels.glob("pip-*.whl")
    zipfile.ZipFile(pip).extractall(target / "site-packages")
    extensions = extensions_of(wheels, folder / "extensions")
    copy_libraries([program, *standard.glob("lib-dynload/*.so"), *extensions], root)
    (root / "tmp").mkdir()
    (root / "tmp").chmod(0o1777)  # the mode of `mkdir` depends on the umask
    (folder / "Containerfile").write_text(CONTAINERFILE, encoding="utf-8")
    podman.run("build", "--quiet", "--layers=false", "--network", "none", "--tag", IMAGE, folder, seconds=200)
    return IMAGE


def extensions_of(wheels: Path, folder: Path) -> list[Path]:
    """Unpack the extension modules in wheels."""
    for path in wheels.glob("*.whl"):
        with zipfile.ZipFile(path) as wheel:
            wheel.extractall(folder, [name for name in wheel.namelist() if ".so" in Path(name).suffixes])
    return [path for path in folder.rglob("*") if path.is_file()]


def copy_libraries(files: Iterable[Path], root: Path) -> None:
    """Copy the shared libraries that programs and extension modules need; the loader to the same path as here."""
    listed = subprocess.run(["ldd", *files], capture_output=True, text=True, check=False).stdout
    for library, loader in set(LIBRARY.findall(listed)):
        source = Path(library or loader)
        target = root / (f"{LIBRARIES}/{source.name}" if library else loader.lstrip("/"))
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy(source, target)
