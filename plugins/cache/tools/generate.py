"""Generates the Python modules of the cache's gRPC API from the `.proto` files beside them.

    pip install grpcio-tools==1.62.3 mypy-protobuf==3.6.0 "setuptools<81"
    python plugins/cache/tools/generate.py [FOLDER]

Without FOLDER the modules are written where they are checked in. The pins are old on purpose: what these versions write
runs on every grpcio from 1.60 and every protobuf from 4.25 on, newer ones demand a runtime that is as new as they are.
They need protobuf 4, so an environment of their own is the best place for them.
"""

from __future__ import annotations

import sys
from importlib import metadata
from pathlib import Path

SOURCES = Path(__file__).resolve().parents[1] / "src"
WIRE = Path("dicom_adapter_cache", "wire")
PINS = {"grpcio-tools": "1.62.3", "mypy-protobuf": "3.6.0"}  # what decides the text of the modules
REQUIREMENTS = [*(f"{name}=={version}" for name, version in PINS.items()), "setuptools<81"]  # for its pkg_resources


def missing() -> list[str]:
    """What keeps this environment from generating the same files as everywhere else."""
    return [f"{name}=={version}" for name, version in PINS.items() if _installed(name) != version]


def _installed(name: str) -> str | None:
    try:
        return metadata.version(name)
    except metadata.PackageNotFoundError:
        return None


def generate(target: Path) -> None:
    """Write all modules below `target`."""
    import grpc_tools
    from grpc_tools import protoc

    sources = sorted(str(path) for path in (SOURCES / WIRE).glob("*.proto"))
    plugins = [f"--plugin={path}" for path in sorted(Path(sys.executable).parent.glob("protoc-gen-mypy*"))]
    kinds = [f"--{kind}_out={target}" for kind in ("python", "mypy", "grpc_python", "mypy_grpc")]
    google = Path(grpc_tools.__file__).with_name("_proto")  # the types that every protoc knows
    paths = [f"--proto_path={SOURCES}", f"--proto_path={google}"]
    target.mkdir(parents=True, exist_ok=True)
    if protoc.main(["protoc", *paths, "--mypy_opt=quiet", "--mypy_grpc_opt=quiet", *plugins, *kinds, *sources]):
        raise SystemExit("protoc failed: see its messages above")


def main() -> None:
    if absent := missing():
        raise SystemExit(f"this environment lacks {' and '.join(absent)}: see the top of {Path(__file__).name}")
    generate(Path(sys.argv[1]) if len(sys.argv) > 1 else SOURCES)


if __name__ == "__main__":
    main()
